"""The kernel's run-time measurement list: parse it, replay it, check file signatures."""
