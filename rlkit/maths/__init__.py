"""Returns, schedules, exploration and exact values: pure functions."""
