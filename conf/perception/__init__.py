"""The YAML files of the companion module: its primary configuration, and the recipes."""
