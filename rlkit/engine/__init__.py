"""How a policy is evaluated and improved: autograd as the reference, analytic gradients where they are faster."""
