"""The machine below: processes, ranks under torchrun, memory, GPUs, seeds."""
