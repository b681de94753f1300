"""Drivers of BMCs, one file each."""
