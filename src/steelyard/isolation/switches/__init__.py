"""Drivers of switches, one file each."""
