"""The seeds of a run's parts, all from one."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np


class Seeds(NamedTuple):
    """One for each part of a run that draws."""

    envs: int
    agent: int
    evaluation: int
    final_evaluation: int


def run_seeds(seed: int, *process: int) -> Seeds:
    """Independent seeds for the parts of a run, or of one of its further processes, which numbers tell apart."""
    return Seeds(*(int(s) for s in np.random.SeedSequence(seed, spawn_key=process).generate_state(4)))


def env_seeds(seed: int, count: int) -> list[int]:
    """Independent seeds, so that runs whose seeds are neighbours share no environment."""
    return [int(s) for s in np.random.SeedSequence(seed).generate_state(count) >> 1]


@contextmanager
def seeded_globally(seed: int) -> Iterator[None]:
    """Inside, the global generators of Python, NumPy and torch draw by the seed; afterwards as if nothing had been.

    For code of others that draws from them. Torch's generators of GPUs are left alone.
    """
    import torch  # which takes long to import

    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        random.seed(seed)
        np.random.seed(seed)
        torch.default_generator.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
