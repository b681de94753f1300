"""The balance: bytes in, checked facts out. No socket, clock, file, thread or random number in here."""
