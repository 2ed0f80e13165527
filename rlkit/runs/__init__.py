"""What agents and companion models share: run folders, files, loggers, progress, and how a command is composed."""
