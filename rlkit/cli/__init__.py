"""The command line: from its words to a checked configuration."""
