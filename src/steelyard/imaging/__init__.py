"""Service 2: golden images, copy-on-write volumes, block export, network boot, and the airlock image."""
