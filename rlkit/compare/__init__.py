"""Comparison of agents over seeds: with Stable-Baselines3's on equal terms, or of any finished runs."""
