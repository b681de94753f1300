"""Images of systems for tenants, which open their root volume over the network."""
