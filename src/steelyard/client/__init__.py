"""Typed HTTP clients of the services. The command line does nothing that these do not."""
