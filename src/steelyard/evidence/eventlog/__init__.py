"""The firmware's measured-boot log: parse it, replay it, tell what its digests cover from what they do not."""
