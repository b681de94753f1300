"""Runs on the node that is being weighed: proves what booted, and starts the tenant's system once it may.

It is the tenant's code on a machine that nobody trusts yet, and everything it is told comes from strangers: the boot
service may lie, the network may lie. What it must believe is either hashed into the quote, sealed to a key that the
quote vouches for, or checked against a digest that came so. It is kept small, and imports late what is slow to import.
"""
