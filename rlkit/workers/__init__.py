"""A3C's worker processes and Ray actors, and the loop over what they report."""
