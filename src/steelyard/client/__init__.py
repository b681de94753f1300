"""Typed HTTP clients of the services: what a request is and what its answer means, for threads and for asyncio alike.

`isolation.py` says each call once, as data; `connection.py` makes them, blocking or awaited. What a service refuses
comes back as the error it raised there. No framework of the services is imported here.
"""
