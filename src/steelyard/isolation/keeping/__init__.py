"""The keepers: they make true what is wanted, and believe only what they read back.

A keeper's pass is a plain method, which takes its time from the database and waits for nothing; `keepers.py` calls
them from threads.
"""
