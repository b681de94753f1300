"""How nodes boot over the network: who gets an address, and what each may fetch."""
