"""Attestation: which machine is this, and is it what it should be; now, and as long as it runs."""
