"""Data-parallel training under torchrun: this process's rank, its shard of the environments, and all-reduces.

Each rank steps its own shard of the environments and learns from their experience. Gradients and statistics are
all-reduced, so that the parameters stay equal on all ranks. Most runs have one process: then nothing communicates,
every method returns its argument, and torch.distributed is never imported.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from rlkit.errors import RlkitError

if TYPE_CHECKING:
    from torch import Tensor, nn

Array = NDArray[Any]
Rows = TypeVar("Rows", bound=Sequence[Any] | Array)

TIMEOUT = timedelta(days=1)
"""Longest wait for another rank. It is generous because the others wait while rank 0 evaluates and saves; a rank that
ends is noticed at once, without it."""


class Launch(NamedTuple):
    """The environment variables by which torchrun tells a process which one it is."""

    rank: int = 0
    """Index among all processes; rank 0 logs, evaluates and saves."""
    size: int = 1
    """Number of processes, which torchrun calls the world size."""
    local_rank: int = 0
    """Index among the processes on this machine; also the index of the GPU that this one uses."""
    local_size: int = 1
    """Number of processes on this machine."""


class LostRank(RlkitError):
    """Raised when another process of the run has ended; that process prints the reason itself."""


_process_groups = itertools.count()
"""Numbers the process groups that this process joins. torchrun's store outlives a run and keeps the keys of earlier
groups, so that each group needs keys of its own."""


def launched() -> Launch:
    """Reads torchrun's environment variables; without torchrun, returns those of a process that trains alone.

    Raises RlkitError if only some of the variables are set.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return Launch()
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        if name not in os.environ:
            raise RlkitError(f"WORLD_SIZE={size} is set, but {name} is not: start with torchrun, or unset WORLD_SIZE")
    local = (int(os.environ.get(name, default)) for name, default in (("LOCAL_RANK", "0"), ("LOCAL_WORLD_SIZE", "1")))
    return Launch(int(os.environ["RANK"]), size, *local)


def seconds_to_speak(error: RlkitError) -> float:
    """Returns the seconds that this rank waits before it prints an error, so that the right rank speaks first.

    torchrun ends all processes as soon as one has ended. With these delays a mistake that every rank finds is printed
    once, by rank 0, and a rank that died explains itself before the others complain that they lost it.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return 0.0
    if isinstance(error, LostRank):
        return 4.0
    return 0.0 if os.environ.get("RANK") == "0" else 2.0


class ShardedGenerator:
    """A random generator that draws one row per environment of all ranks, and returns this rank's shard of the rows.

    Two ranks with half of the environments each therefore act exactly as one process with all of them would. The class
    offers only the draws that a shard can be taken of: any other draw would give every rank the same numbers.
    """

    def __init__(self, seed: np.random.SeedSequence, ranks: Ranks) -> None:
        self._rng, self._ranks = np.random.default_rng(seed), ranks

    @property
    def bit_generator(self) -> Any:
        """The underlying NumPy bit generator, whose `state` can be read and set."""
        return self._rng.bit_generator

    def random(self, size: tuple[int, ...]) -> Array:
        """Draws uniform numbers in [0, 1), of shape `size`: (rows, …)."""
        return self._ranks.shard(self._rng.random(self._global_shape(size)))

    def standard_normal(self, size: tuple[int, ...], dtype: type[np.floating[Any]] = np.float64) -> Array:
        """Draws standard normal numbers, of shape `size`: (rows, …)."""
        return self._ranks.shard(self._rng.standard_normal(self._global_shape(size), dtype))

    def standard_exponential(self, size: tuple[int, ...], dtype: type[np.floating[Any]] = np.float64) -> Array:
        """Draws exponentially distributed numbers of mean 1, of shape `size`: (rows, …)."""
        return self._ranks.shard(self._rng.standard_exponential(self._global_shape(size), dtype))

    def _global_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (shape[0] * self._ranks.size, *shape[1:])


RowGenerator: TypeAlias = np.random.Generator | ShardedGenerator
"""A random generator to draw one row per environment from: by `random`, `standard_normal` or `standard_exponential`."""


class Ranks:
    """The process group of a run, as one of its processes sees it; without arguments, a group of one process.

    `rank` is this process's index and `size` the number of processes. Methods that combine values are collective: every
    rank has to call them, all in one order.
    """

    def __init__(self, launch: Launch | None = None) -> None:
        launch = launch or Launch()
        self.rank, self.size = launch.rank, launch.size
        self._local_rank, self._local_size = launch.local_rank, launch.local_size
        self._lockstep = True
        """True if every vector step yields one transition per environment, so that all ranks count alike and need not
        exchange their counts."""

    @contextmanager
    def process_group(self, model: nn.Module, agreed: str, *, lockstep: bool) -> Iterator[None]:
        """Joins the other ranks until the block ends, and broadcasts rank 0's `model` to all of them.

        `agreed` describes the run; raises RlkitError if it differs between ranks. `lockstep` promises that every vector
        step yields one transition per environment.
        """
        if self.size == 1:
            yield
            return
        from torch import cuda, distributed
        from torch.distributed.distributed_c10d import PrefixStore
        from torch.distributed.rendezvous import rendezvous

        store, rank, size = next(iter(rendezvous("env://", timeout=TIMEOUT)))
        distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if cuda.is_available() else "gloo",
            store=PrefixStore(f"run {next(_process_groups)}", store),
            rank=rank,
            world_size=size,
            timeout=TIMEOUT,
        )
        try:
            digest = hashlib.sha256(f"{agreed} {lockstep}".encode()).digest()
            if np.ptp(self.gathered(np.frombuffer(digest, np.uint8)), axis=0).any():
                raise RlkitError(
                    "the processes of this run were started with different settings: they must be the same"
                )
            for tensor in model.state_dict().values():
                distributed.broadcast(tensor, 0)
            self._lockstep = lockstep
            yield
        finally:
            self._lockstep = True
            distributed.destroy_process_group()

    # This rank's shard

    def per_rank(self, count: int) -> int:
        """Divides a number that the config gives for all ranks together by the number of ranks; at least 1."""
        return count if self.size == 1 else max(1, count // self.size)

    def shard(self, rows: Rows) -> Rows:
        """Returns this rank's contiguous shard of a sequence or an array with one row per environment of all ranks."""
        if self.size == 1:
            return rows
        count = len(rows) // self.size
        shard: Any = rows[self.rank * count : (self.rank + 1) * count]
        return shard  # type: ignore[no-any-return]

    def env_rng(self, seed: np.random.SeedSequence) -> RowGenerator:
        """Makes a generator for draws of one row per environment.

        This rank's environments get the rows that they would get if one process had the environments of all ranks.
        """
        return np.random.default_rng(seed) if self.size == 1 else ShardedGenerator(seed, self)

    def own_rng(self, seed: np.random.SeedSequence) -> np.random.Generator:
        """Makes a generator whose draws are independent of those of all other ranks."""
        return np.random.default_rng(seed.spawn(self.rank)[-1] if self.rank else seed)

    def gpu(self) -> str:
        """Returns torch's name of this rank's GPU, and makes it the current device.

        Raises RlkitError if this machine has fewer GPUs than ranks.
        """
        if self.size == 1:
            return "cuda"
        from torch import cuda

        if (count := cuda.device_count()) < self._local_size:
            raise RlkitError(
                f"device=cuda needs a GPU for each of this machine's {self._local_size} processes, but there are "
                f"{count}: --nproc-per-node {count}, or device=cpu"
            )
        cuda.set_device(self._local_rank)
        return f"cuda:{self._local_rank}"

    # Combined over all ranks

    def sum_(self, values: Array | Tensor) -> None:
        """All-reduces the values to their sum over all ranks, in place; raises LostRank if another rank has ended."""
        if self.size == 1:
            return
        import torch
        from torch import distributed

        try:
            distributed.all_reduce(torch.as_tensor(values))  # as_tensor shares the array's memory
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise LostRank(f"rank {self.rank} of {self.size} lost another process of the run: {reason}") from error

    def mean_(self, values: Array | Tensor) -> None:
        """All-reduces the values to their mean over all ranks, in place."""
        if self.size > 1:
            self.sum_(values)
            values /= self.size

    def mean(self, value: float) -> float:
        """Returns the mean of a number over all ranks."""
        return float(self.gathered(np.array(value)).mean())

    def gathered(self, values: Array) -> Array:
        """Gathers the values of all ranks, as float64 of shape (ranks, *shape)."""
        gathered = np.zeros((self.size, *values.shape))
        gathered[self.rank] = values
        self.sum_(gathered)
        return gathered

    def steps(self, count: int) -> int:
        """Sums a count of timesteps over all ranks."""
        return self.size * count if self._lockstep else int(self.gathered(np.array(count)).sum())

    def episodes(self, count: int) -> int:
        """Sums a count of episodes over all ranks."""
        return count if self.size == 1 else int(self.gathered(np.array(count)).sum())

    def even(self, rows: Array) -> Array:
        """Cuts the rows to the fewest that any rank has, so that all ranks make equally many minibatches of them."""
        return rows if self._lockstep else rows[: int(self.gathered(np.array(len(rows))).min())]

    def moments(self, rows: Array) -> tuple[int, Array, Array]:
        """Counts the rows of all ranks and returns the number, their mean and their variance (Chan et al. 1979).

        Mean and variance are taken along the first axis.
        """
        shape = rows.shape[1:]
        mean = rows.mean(0, dtype=np.float64) if len(rows) else np.zeros(shape)
        var = rows.var(0, dtype=np.float64) if len(rows) else np.zeros(shape)
        if self.size == 1:
            return len(rows), mean, var
        counts, means, variances = self.gathered(np.stack([np.full(shape, len(rows)), mean, var])).swapaxes(0, 1)
        total = counts.sum(0)
        mean = (counts * means).sum(0) / np.maximum(total, 1)
        var = (counts * (variances + (means - mean) ** 2)).sum(0) / np.maximum(total, 1)
        return int(total.max()), mean, var

    def mean_and_std(self, values: Any) -> tuple[Any, Any]:
        """Returns mean and sample standard deviation over the (rows,) arrays or tensors of all ranks.

        There must be at least two values.
        """
        is_array = isinstance(values, np.ndarray)
        if self.size == 1 and is_array:
            count = len(values)
            mean = values.sum() / count
            centred = values - mean
            return mean, math.sqrt(centred @ centred / (count - 1))  # the product takes a quarter of np.std's time
        if self.size == 1:
            return values.mean(), values.std()
        count, mean, var = self.moments(values if is_array else values.cpu().numpy())
        return float(mean), float(np.sqrt(var * (count / (count - 1))))

    def combined(self, sums: Array, means: dict[str, float]) -> tuple[Array, dict[str, float]]:
        """Sums some numbers over all ranks, and averages others that have names, in a single all-reduce."""
        if self.size == 1:
            return sums, means
        totals = self.gathered(np.array([*sums, *means.values()])).sum(0)
        return totals[: len(sums)], dict(zip(means, (totals[len(sums) :] / self.size).tolist(), strict=True))


ALONE = Ranks()
"""A process group of this process alone, as most runs have it."""
