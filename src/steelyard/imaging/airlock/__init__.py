"""The airlock image: the small measured system that a node runs while it is weighed, made from Debian packages.

Two files. One unified kernel image, that firmware measures: kernel, a first stage that fetches the second one, and a
command line with the second one's SHA-256. And the second stage, a squashfs with Python and the agent. What is in the
second is thereby as measured as what is in the first, and firmware hashes 15 MB instead of 35.
"""
