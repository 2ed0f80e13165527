"""Storage for experience."""
