"""Who has which node, which VLAN its ports carry, power: the one service that every tenant must trust.

It reaches switches and BMCs through `ports.py`, keeps what is wanted in a database, and makes it true. It installs
nothing on a node.
"""
