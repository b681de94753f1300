"""The tenant's orchestrator: takes machines through the airlock into an enclave, watches them, and hands them back."""
