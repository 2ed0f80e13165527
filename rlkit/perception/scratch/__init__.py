"""The basics written out in NumPy, derivatives included, to show plainly what autograd and torch's layers compute."""
