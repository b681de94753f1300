"""The drivers of the ports, over the other services' HTTP APIs."""
