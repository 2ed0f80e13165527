"""Evaluation and improvement of networks: by autograd as the reference, by analytic gradients where they are faster."""
