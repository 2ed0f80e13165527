"""The processes of one run, as torchrun starts them: which one this is, what its share is, and sums over all of them.

Each rank steps its share of the environments and learns from what they bring; gradients and statistics are combined
over all ranks, so that their parameters stay the same. Most runs have one process: then nothing here communicates,
and every function gives back what it was given. torch.distributed is imported for several processes only.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from rlkit.errors import RlkitError

if TYPE_CHECKING:
    from torch import Tensor, nn

Array = NDArray[Any]
Rows = TypeVar("Rows", bound=Sequence[Any] | Array)

SHARED_FIELDS: dict[str, tuple[str, ...]] = {"a2c": (), "dqn": ("minibatch_size",), "ppo": ("minibatch_size",)}
"""The agents that several processes can train, with the fields that the processes must be able to share evenly."""
TIMEOUT = timedelta(days=1)
"""How long ranks wait for each other: the first one also evaluates and saves. A rank that ends is noticed at once."""


class Place(NamedTuple):
    """Which process of a run this is."""

    rank: int = 0
    """Of all; rank 0 logs, evaluates and saves."""
    size: int = 1
    """How many there are."""
    local_rank: int = 0
    """Of those on this machine: the number of the GPU that it may use."""
    local_size: int = 1


class LostRank(RlkitError):
    """Another process of the run has ended, and why is for it to say."""


_place = Place()
_runs = itertools.count()
_lockstep = True
"""Whether every vector step is experience in all environments, so that ranks need not ask each other for counts."""


def launched() -> Place:
    """What torchrun tells this process by its environment variables; a place alone without torchrun.

    Raises RlkitError where only some of them are set.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return Place()
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        if name not in os.environ:
            raise RlkitError(f"WORLD_SIZE={size} is set, but {name} is not: start with torchrun, or unset WORLD_SIZE")
    local = (int(os.environ.get(name, default)) for name, default in (("LOCAL_RANK", "0"), ("LOCAL_WORLD_SIZE", "1")))
    return Place(int(os.environ["RANK"]), size, *local)


def check(agent: Any, num_envs: int, total_episodes: int | None) -> None:
    """Raises RlkitError where torchrun's processes cannot share the work of an agent's config."""
    if (size := launched().size) == 1:
        return
    if agent.name not in SHARED_FIELDS:
        able = ", ".join(SHARED_FIELDS)
        raise RlkitError(
            f"agent={agent.name} cannot be trained by {size} processes under torchrun; those that can: {able}"
        )
    if total_episodes is not None:
        raise RlkitError(
            f"total_episodes={total_episodes} cannot be kept by {size} processes under torchrun, which each count "
            "their own; expected total_timesteps alone"
        )
    fields = {"num_envs": num_envs, **{f"agent.{name}": getattr(agent, name) for name in SHARED_FIELDS[agent.name]}}
    for name, value in fields.items():
        if value % size:
            nearest = max(1, round(value / size)) * size
            raise RlkitError(f"{size} processes cannot share {name}={value} evenly; the nearest that works: {nearest}")


def seconds_to_speak(error: RlkitError) -> float:
    """How long to wait before printing an error, since torchrun ends all processes as soon as one has ended.

    So a mistake that all of them find is printed once, and a lost process explains itself before others complain.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return 0.0
    if isinstance(error, LostRank):
        return 4.0
    return 0.0 if os.environ.get("RANK") == "0" else 2.0


# Meeting the others


@contextmanager
def taking_part() -> Iterator[None]:
    """Takes the place that torchrun has given to this process, until the end of the block."""
    global _place
    _place = launched()
    try:
        yield
    finally:
        _place = Place()


@contextmanager
def met(model: nn.Module, agreed: str, *, lockstep: bool) -> Iterator[None]:
    """Connects all ranks until the end of the block, and gives all of them the first one's `model`.

    Raises RlkitError unless `agreed`, which says what is trained and how, is the same for all.
    """
    global _lockstep
    if _place.size == 1:
        yield
        return
    from torch import cuda, distributed
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    store, rank, size = next(iter(rendezvous("env://", timeout=TIMEOUT)))
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if cuda.is_available() else "gloo",
        store=PrefixStore(f"run {next(_runs)}", store),  # where an earlier run met is still in it
        rank=rank,
        world_size=size,
        timeout=TIMEOUT,
    )
    try:
        digest = hashlib.sha256(f"{agreed} {lockstep}".encode()).digest()
        if np.ptp(gathered(np.frombuffer(digest, np.uint8)), axis=0).any():
            raise RlkitError("the processes of this run were started with different settings: they must be the same")
        for tensor in model.state_dict().values():
            distributed.broadcast(tensor, 0)
        _lockstep = lockstep
        yield
    finally:
        _lockstep = True
        distributed.destroy_process_group()


# This one's share


def rank() -> int:
    """Which of the processes this is; 0 where there is one."""
    return _place.rank


def size() -> int:
    """How many processes train together."""
    return _place.size


def share(count: int) -> int:
    """Each rank's part of a number that the configuration gives for all."""
    return count if _place.size == 1 else max(1, count // _place.size)


def mine(rows: Rows) -> Rows:
    """This rank's part of what is ordered by environment."""
    if _place.size == 1:
        return rows
    count = len(rows) // _place.size
    part: Any = rows[_place.rank * count : (_place.rank + 1) * count]
    return part  # type: ignore[no-any-return]


def env_rng(seed: np.random.SeedSequence) -> np.random.Generator:
    """A generator whose draws, one row per environment, are those that one process would draw for this rank's."""
    return np.random.default_rng(seed) if _place.size == 1 else _RowsOfAll(np.random.PCG64(seed))


def own_rng(seed: np.random.SeedSequence) -> np.random.Generator:
    """A generator of this rank's own."""
    return np.random.default_rng(seed.spawn(_place.rank)[-1] if _place.rank else seed)


class _RowsOfAll(np.random.Generator):
    """Draws as many rows as all ranks need, and returns this one's."""

    def random(self, size: Any = None, *args: Any, **kwargs: Any) -> Any:
        return mine(super().random(_of_all(size), *args, **kwargs))

    def standard_normal(self, size: Any = None, *args: Any, **kwargs: Any) -> Any:
        return mine(super().standard_normal(_of_all(size), *args, **kwargs))

    def standard_exponential(self, size: Any = None, *args: Any, **kwargs: Any) -> Any:
        return mine(super().standard_exponential(_of_all(size), *args, **kwargs))


def _of_all(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[0] * _place.size, *shape[1:])


def gpu() -> str:
    """The GPU that is this rank's own; raises RlkitError where there are fewer than ranks on this machine."""
    if _place.size == 1:
        return "cuda"
    from torch import cuda

    if (count := cuda.device_count()) < _place.local_size:
        raise RlkitError(
            f"device=cuda needs a GPU for each of this machine's {_place.local_size} processes, but there are {count}: "
            f"--nproc-per-node {count}, or device=cpu"
        )
    cuda.set_device(_place.local_rank)
    return f"cuda:{_place.local_rank}"


# Sums over all ranks, which all have to call in the same order


def sum_(values: Array | Tensor) -> None:
    """Makes each value its sum over all ranks, in place; raises LostRank where another one has ended."""
    if _place.size == 1:
        return
    import torch
    from torch import distributed

    try:
        distributed.all_reduce(torch.as_tensor(values))  # which shares an array's memory
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise LostRank(f"rank {_place.rank} of {_place.size} lost another process of the run: {reason}") from error


def mean_(values: Array | Tensor) -> None:
    """Makes each value its mean over all ranks, in place."""
    if _place.size > 1:
        sum_(values)
        values /= _place.size


def mean(value: float) -> float:
    """A number's mean over all ranks."""
    return float(gathered(np.array(value)).mean())


def gathered(values: Array) -> Array:
    """The values of all ranks as float64: (ranks, *shape)."""
    everyone = np.zeros((_place.size, *values.shape))
    everyone[_place.rank] = values
    sum_(everyone)
    return everyone


def steps(count: int) -> int:
    """A count of timesteps, summed over all ranks."""
    return _place.size * count if _lockstep else int(gathered(np.array(count)).sum())


def episodes(count: int) -> int:
    """A count of episodes, summed over all ranks."""
    return count if _place.size == 1 else int(gathered(np.array(count)).sum())


def even(rows: Array) -> Array:
    """The first of the rows: as many as the rank with the fewest has, so that all take equally many minibatches."""
    return rows if _lockstep else rows[: int(gathered(np.array(len(rows))).min())]


def moments(rows: Array) -> tuple[int, Array, Array]:
    """How many rows all ranks have, with their mean and variance along the first axis (Chan et al. 1979)."""
    shape = rows.shape[1:]
    mean = rows.mean(0, dtype=np.float64) if len(rows) else np.zeros(shape)
    var = rows.var(0, dtype=np.float64) if len(rows) else np.zeros(shape)
    if _place.size == 1:
        return len(rows), mean, var
    counts, means, variances = gathered(np.stack([np.full(shape, len(rows)), mean, var])).swapaxes(0, 1)
    total = counts.sum(0)
    mean = (counts * means).sum(0) / np.maximum(total, 1)
    var = (counts * (variances + (means - mean) ** 2)).sum(0) / np.maximum(total, 1)
    return int(total.max()), mean, var


def mean_and_std(values: Any) -> tuple[Any, Any]:
    """Mean and sample standard deviation of the (rows,) arrays or tensors of all ranks; of two values at least."""
    is_array = isinstance(values, np.ndarray)
    if _place.size == 1 and is_array:
        count = len(values)
        mean = values.sum() / count
        centred = values - mean  # whose product with itself takes a quarter of the time of np.std
        return mean, math.sqrt(centred @ centred / (count - 1))
    if _place.size == 1:
        return values.mean(), values.std()
    count, mean, var = moments(values if is_array else values.cpu().numpy())
    return float(mean), float(np.sqrt(var * (count / (count - 1))))


def combined(sums: Array, means: dict[str, float]) -> tuple[Array, dict[str, float]]:
    """The sums over all ranks of some numbers, and the means of others by their names, at once."""
    if _place.size == 1:
        return sums, means
    totals = gathered(np.array([*sums, *means.values()])).sum(0)
    return totals[: len(sums)], dict(zip(means, (totals[len(sums) :] / _place.size).tolist(), strict=True))
