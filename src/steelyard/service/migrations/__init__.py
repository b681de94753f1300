"""The versions of the tables that the services share."""
