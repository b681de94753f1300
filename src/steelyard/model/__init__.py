"""Names, quantities and every error that Steelyard speaks of. Standard library only; does nothing on import."""
