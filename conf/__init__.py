"""The YAML files that Hydra composes: the primary configuration, and tuned values per agent and environment."""
