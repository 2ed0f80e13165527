"""Function approximators: observations to features, features to distributions of actions and to values."""
