"""The command line: turns its arguments into a checked configuration, or prints help."""
