"""The plumbing that the services share: configuration, database, authority, journal, HTTP, logs, metrics."""
