"""The reference engine: autograd, for every network and device."""
