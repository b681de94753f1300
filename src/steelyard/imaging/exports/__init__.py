"""How volumes are served to nodes: one module per protocol, and what all of them have in common."""
