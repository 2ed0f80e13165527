"""Supervised and generative networks on real data: a module of its own, which knows nothing of agents."""
