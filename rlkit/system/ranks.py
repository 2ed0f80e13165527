"""The processes of one run, as torchrun starts them: which one this is, what its share is, and sums over all of them.

Each rank steps its share of the environments and learns from what they bring; gradients and statistics are combined
over all ranks, so that their parameters stay the same. Most runs have one process: then nothing here communicates,
and every method gives back what it was given. torch.distributed is imported for several processes only.
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
"""How long ranks wait for each other: the first one also evaluates and saves. A rank that ends is noticed at once."""


class Launch(NamedTuple):
    """The place that torchrun gives to a process by its environment variables."""

    rank: int = 0
    """Number among all processes; rank 0 logs, evaluates and saves."""
    size: int = 1
    """Number of processes."""
    local_rank: int = 0
    """Number among the processes on this machine, and so of the GPU that this one may use."""
    local_size: int = 1
    """Number of processes on this machine."""


class LostRank(RlkitError):
    """Another process of the run has ended, and why is for it to say."""


_meetings = itertools.count()
"""How often this process has met the others: torchrun's store outlives a run, and remembers earlier meetings."""


def launched() -> Launch:
    """The place that torchrun gives to this process; a process alone without torchrun.

    Raises RlkitError where only some of torchrun's variables are set.
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
    """Seconds to wait before printing an error, since torchrun ends all processes as soon as one has ended.

    So a mistake that all of them find is printed once, and a lost process explains itself before others complain.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return 0.0
    if isinstance(error, LostRank):
        return 4.0
    return 0.0 if os.environ.get("RANK") == "0" else 2.0


class RowsOfAllRanks:
    """A generator that draws one row for each environment of all ranks, and returns the rows of this rank's.

    So ranks with half of the environments each act as one process with all of them would. It has only the draws below:
    any other would give all ranks the same numbers.
    """

    def __init__(self, seed: np.random.SeedSequence, ranks: Ranks) -> None:
        self._rng, self._ranks = np.random.default_rng(seed), ranks

    @property
    def bit_generator(self) -> Any:
        """The state, as NumPy's generators have it."""
        return self._rng.bit_generator

    def random(self, size: tuple[int, ...]) -> Array:
        """Uniform numbers in [0, 1): (rows, …)."""
        return self._ranks.mine(self._rng.random(self._of_all(size)))

    def standard_normal(self, size: tuple[int, ...], dtype: type[np.floating[Any]] = np.float64) -> Array:
        """Normal numbers: (rows, …)."""
        return self._ranks.mine(self._rng.standard_normal(self._of_all(size), dtype))

    def standard_exponential(self, size: tuple[int, ...], dtype: type[np.floating[Any]] = np.float64) -> Array:
        """Exponentially distributed numbers: (rows, …)."""
        return self._ranks.mine(self._rng.standard_exponential(self._of_all(size), dtype))

    def _of_all(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (shape[0] * self._ranks.size, *shape[1:])


RowGenerator: TypeAlias = np.random.Generator | RowsOfAllRanks
"""Draws of one row per environment: `random`, `standard_normal` and `standard_exponential`."""


class Ranks:
    """The process group of a run, as one of its processes sees it; by default a process alone.

    `rank` is this process's number and `size` the number of processes. All ranks have to call methods that combine
    values in the same order.
    """

    def __init__(self, launch: Launch | None = None) -> None:
        launch = launch or Launch()
        self.rank, self.size = launch.rank, launch.size
        self._local_rank, self._local_size = launch.local_rank, launch.local_size
        self._lockstep = True
        """Whether every vector step is experience in all environments, so that ranks need not exchange counts."""

    @contextmanager
    def meeting(self, model: nn.Module, agreed: str, *, lockstep: bool) -> Iterator[None]:
        """Connects all ranks until the end of the block, and gives all of them the first one's `model`.

        Raises RlkitError unless `agreed`, which says what is trained and how, is the same for all.
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
            store=PrefixStore(f"run {next(_meetings)}", store),
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

    # This rank's share

    def share(self, count: int) -> int:
        """Each rank's part of a number that the configuration gives for all; at least 1."""
        return count if self.size == 1 else max(1, count // self.size)

    def mine(self, rows: Rows) -> Rows:
        """This rank's part of a sequence or an array that is ordered by environment."""
        if self.size == 1:
            return rows
        count = len(rows) // self.size
        part: Any = rows[self.rank * count : (self.rank + 1) * count]
        return part  # type: ignore[no-any-return]

    def env_rng(self, seed: np.random.SeedSequence) -> RowGenerator:
        """A generator for one row per environment: the rows that one process would draw for this rank's."""
        return np.random.default_rng(seed) if self.size == 1 else RowsOfAllRanks(seed, self)

    def own_rng(self, seed: np.random.SeedSequence) -> np.random.Generator:
        """A generator of this rank's own."""
        return np.random.default_rng(seed.spawn(self.rank)[-1] if self.rank else seed)

    def gpu(self) -> str:
        """The GPU that is this rank's own; raises RlkitError where there are fewer than ranks on this machine."""
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
        """Makes each value its sum over all ranks, in place; raises LostRank where another one has ended."""
        if self.size == 1:
            return
        import torch
        from torch import distributed

        try:
            distributed.all_reduce(torch.as_tensor(values))  # which shares an array's memory
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise LostRank(f"rank {self.rank} of {self.size} lost another process of the run: {reason}") from error

    def mean_(self, values: Array | Tensor) -> None:
        """Makes each value its mean over all ranks, in place."""
        if self.size > 1:
            self.sum_(values)
            values /= self.size

    def mean(self, value: float) -> float:
        """The mean of a number over all ranks."""
        return float(self.gathered(np.array(value)).mean())

    def gathered(self, values: Array) -> Array:
        """The values of all ranks as float64: (ranks, *shape)."""
        everyone = np.zeros((self.size, *values.shape))
        everyone[self.rank] = values
        self.sum_(everyone)
        return everyone

    def steps(self, count: int) -> int:
        """A count of timesteps, summed over all ranks."""
        return self.size * count if self._lockstep else int(self.gathered(np.array(count)).sum())

    def episodes(self, count: int) -> int:
        """A count of episodes, summed over all ranks."""
        return count if self.size == 1 else int(self.gathered(np.array(count)).sum())

    def even(self, rows: Array) -> Array:
        """The first rows: as many as the rank with the fewest has, so that all take equally many minibatches."""
        return rows if self._lockstep else rows[: int(self.gathered(np.array(len(rows))).min())]

    def moments(self, rows: Array) -> tuple[int, Array, Array]:
        """The number of rows on all ranks, with their mean and variance along the first axis (Chan et al. 1979)."""
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
        """Mean and sample standard deviation of the (rows,) arrays or tensors of all ranks; of two values at least."""
        is_array = isinstance(values, np.ndarray)
        if self.size == 1 and is_array:
            count = len(values)
            mean = values.sum() / count
            centred = values - mean  # whose product with itself takes a quarter of the time of np.std
            return mean, math.sqrt(centred @ centred / (count - 1))
        if self.size == 1:
            return values.mean(), values.std()
        count, mean, var = self.moments(values if is_array else values.cpu().numpy())
        return float(mean), float(np.sqrt(var * (count / (count - 1))))

    def combined(self, sums: Array, means: dict[str, float]) -> tuple[Array, dict[str, float]]:
        """The sums over all ranks of some numbers, and the means of others by their names, in one exchange."""
        if self.size == 1:
            return sums, means
        totals = self.gathered(np.array([*sums, *means.values()])).sum(0)
        return totals[: len(sums)], dict(zip(means, (totals[len(sums) :] / self.size).tolist(), strict=True))


ALONE = Ranks()
"""The process group of a run in one process."""
