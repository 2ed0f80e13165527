"""Run folders, files, loggers, progress and the composition of commands, which agents and companion models share."""
