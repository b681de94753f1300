"""What a TPM says: attestation structures, quotes, public areas, credential activation, endorsement certificates."""
