"""The basics written out in NumPy, derivatives included: what autograd and torch's layers compute, in plain sight."""
