"""The ways in by terminal: they translate, they decide nothing."""
