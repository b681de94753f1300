"""The command line: it reads files, asks the core, and shows what it said. It decides nothing."""
