"""Seeds for the parts of a run, all derived from the run's one seed."""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

_changing = threading.RLock()
"""Held while the global generators are set, which threads of one process have in common."""


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


def episode_seed(seed: int, episode: int) -> int:
    """Returns the seed of an evaluation's episode: they count up from the evaluation's seed, and have 31 bits.

    Environments that keep a seed as an int32 would raise for larger ones.
    """
    return (seed + episode) % 2**31


def seed_globally(seed: int) -> None:
    """Seeds the global generators of Python, NumPy and, if it was imported, torch; not those of GPUs.

    They are for others' code only: environments and networks may draw from them. The numbers that rlkit itself draws
    come from generators of their own.
    """
    with _changing:
        random.seed(seed)
        np.random.seed(seed % 2**32)
        if torch := sys.modules.get("torch"):  # never imported for this, because that takes long in a worker process
            torch.default_generator.manual_seed(seed)


def global_state() -> tuple[object, ...]:
    """Returns the states of the global generators, for comparing: they change when somebody draws from them."""
    torch = sys.modules.get("torch")
    torch_state = torch.default_generator.get_state().tolist() if torch else None
    numpy_state: Any = np.random.get_state()
    return random.getstate(), numpy_state[1].tolist(), numpy_state[2:], torch_state


def read_generators() -> dict[str, Any]:
    """Returns the states of the global generators as lists, numbers and arrays, which files can hold."""
    version, internal, gauss = random.getstate()
    torch = sys.modules.get("torch")
    return {
        "random": [version, list(internal), gauss],
        "numpy": np.random.get_state(legacy=False),
        "torch": torch.default_generator.get_state().numpy() if torch else None,
    }


def write_generators(state: Mapping[str, Any]) -> None:
    """Restores what `read_generators` returned."""
    version, internal, gauss = state["random"]
    with _changing:
        random.setstate((version, tuple(internal), gauss))
        np.random.set_state(state["numpy"])
        if state["torch"] is not None and (torch := sys.modules.get("torch")):
            torch.default_generator.set_state(torch.from_numpy(state["torch"].copy()))


@contextmanager
def seeded_globally(seed: int) -> Iterator[None]:
    """Seeds the global generators inside the block as `seed_globally` does, and restores their states afterwards."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    torch = sys.modules.get("torch")
    torch_state = torch.default_generator.get_state() if torch else None
    seed_globally(seed)
    try:
        yield
    finally:
        with _changing:
            random.setstate(python_state)
            np.random.set_state(numpy_state)
            if torch:
                torch.default_generator.set_state(torch_state)


@contextmanager
def seeded_alone(seed: int) -> Iterator[None]:
    """Seeds the global generators like `seeded_globally`, while no other thread's run may seed them."""
    with _changing, seeded_globally(seed):
        yield
