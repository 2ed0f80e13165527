"""The fast engine for small networks on the CPU: analytic gradients, in C."""
