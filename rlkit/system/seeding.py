"""Seeds for the parts of a run, all derived from the run's one seed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np


class Seeds(NamedTuple):
    """One seed for each part of a run that draws random numbers."""

    envs: int
    """Seed of the training environments."""
    agent: int
    """Seed of the agent's weights, actions and minibatches."""
    evaluation: int
    """Seed of the episodes in the evaluations during training."""
    final_evaluation: int
    """Seed of the episodes in the evaluation at the end."""


def run_seeds(seed: int, *process: int) -> Seeds:
    """Derives independent seeds for the parts of a run, or of one of its processes, told apart by `process` numbers."""
    return Seeds(*(int(s) for s in np.random.SeedSequence(seed, spawn_key=process).generate_state(4)))


def env_seeds(seed: int, count: int) -> list[int]:
    """Derives one independent seed per environment.

    Counting up from `seed` would not do: runs with neighbouring seeds would then have environments in common.
    """
    return [int(s) for s in np.random.SeedSequence(seed).generate_state(count) >> 1]


@contextmanager
def seeded_globally(seed: int) -> Iterator[None]:
    """Seeds the global generators of Python, NumPy and torch inside the block, and restores their states afterwards.

    It is for others' code, which may draw from global generators. Torch's GPU generators are left alone.
    """
    import torch  # only here, since importing it takes long

    python_state, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        random.seed(seed)
        np.random.seed(seed)
        torch.default_generator.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)
