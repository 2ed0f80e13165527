"""Replay buffers of rlkit and other libraries: bytes per transition, transitions added and sampled per CPU second.

    python benchmarks/replay.py [--repetitions 3] [--systems rlkit sb3 …]

Each buffer is filled with equal transitions of one environment, and then batches of 256 are drawn, in a fresh process
with one thread. The bytes are the growth of the process's memory. Transitions on disk are read from the system's cache
of it, as they are while memory has room. Writes results/replay.json and .md. cpprb and torchrl are measured if they are
installed; cpprb, like rlkit, stores every observation and frame only once.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

import rlkit

HERE = Path(__file__).resolve().parent
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
BATCH, EPISODE = 256, 200
TASKS: dict[str, spaces.Box] = {
    "CartPole": spaces.Box(-1, 1, (4,), np.float32),
    "Atari": spaces.Box(0, 255, (4, 84, 84), np.uint8),
}
SIZES = {"CartPole": 50_000, "Atari": 10_000}
ACTIONS = spaces.Discrete(4)
COLUMNS = {
    "bytes": "bytes per transition",
    "adds": "transitions added/s",
    "samples": "batches sampled/s",
    "prioritized_samples": "prioritized batches sampled and updated/s",
}


class Data(NamedTuple):
    """Transitions of episodes that terminate after EPISODE steps; step i leads from obs[i] to next_obs[i].

    Each observation is (1, *shape).
    """

    obs: list[Any]
    next_obs: list[Any]
    action: list[Any]
    reward: list[Any]
    done: list[Any]


def make_data(task: str, steps: int = 5 * EPISODE) -> Data:
    """Makes equal data for every system: random vectors, or stacks of four random frames that shift by one."""
    rng, space = np.random.default_rng(0), TASKS[task]
    if task == "Atari":
        frames = rng.integers(256, size=(steps + 4, *space.shape[1:]), dtype=np.uint8)
        observations = [frames[None, i : i + 4].copy() for i in range(steps + 1)]
    else:
        observations = list(rng.normal(size=(steps + 1, 1, *space.shape)).astype(np.float32))
    return Data(
        observations[:-1],
        observations[1:],
        list(rng.integers(4, size=(steps, 1))),
        list(rng.normal(size=(steps, 1)).astype(np.float32)),
        [np.array([i % EPISODE == EPISODE - 1]) for i in range(steps)],
    )


class Rlkit:
    """rlkit's replay buffer, uniform or prioritized."""

    folder: Path | None = None

    def __init__(self, task: str, size: int, prioritized: bool) -> None:
        from rlkit.buffers.prioritized import PrioritizedReplayBuffer
        from rlkit.buffers.replay import ReplayBuffer

        kind = PrioritizedReplayBuffer if prioritized else ReplayBuffer
        self.buffer: Any = kind(size, 1, TASKS[task], ACTIONS, folder=self.folder)
        self.rng = np.random.default_rng(0)

    def prepare(self, data: Data) -> list[Any]:
        """Returns vector steps as the collector makes them, in which an observation is the last step's next one."""
        from rlkit.buffers.transition import Transition

        nobody, everybody = np.zeros(1, np.bool_), np.ones(1, np.bool_)
        obs = [(leaf,) for leaf in data.obs]
        following = [*obs[1:], obs[0]]
        return [
            Transition(obs[i], data.action[i], data.reward[i], data.done[i], nobody, following[i], {}, everybody, None)
            for i in range(len(obs))
        ]

    def add(self, step: Any) -> None:
        """Adds one vector step."""
        self.buffer.add(step)

    def sample(self) -> Any:
        """Draws a batch."""
        return self.buffer.sample(BATCH, self.rng)

    def sample_and_prioritize(self, priorities: Any) -> None:
        """Draws a batch and gives its transitions new priorities."""
        self.buffer.update_priorities(self.buffer.sample(BATCH, self.rng, 0.5).rows, priorities)


class OnDisk(Rlkit):
    """rlkit's replay buffer on disk, as with `agent.replay.folder`, on the disk of the results."""

    folder = HERE


class SB3:
    """Stable-Baselines3's replay buffer, as its DQN makes it by default; `optimised` stores observations once."""

    optimised = False

    def __init__(self, task: str, size: int, prioritized: bool) -> None:
        from stable_baselines3.common.buffers import ReplayBuffer

        options = {"optimize_memory_usage": True, "handle_timeout_termination": False} if self.optimised else {}
        self.buffer: Any = ReplayBuffer(size, TASKS[task], ACTIONS, device="cpu", **options)

    def prepare(self, data: Data) -> list[Any]:
        """Returns the arguments of SB3's `add`."""
        return [
            (*step, [{}]) for step in zip(data.obs, data.next_obs, data.action, data.reward, data.done, strict=True)
        ]

    def add(self, step: Any) -> None:
        """Adds one transition."""
        self.buffer.add(*step)

    def sample(self) -> Any:
        """Draws a batch, as tensors."""
        return self.buffer.sample(BATCH)


class OptimisedSB3(SB3):
    """Stable-Baselines3's replay buffer with `optimize_memory_usage`."""

    optimised = True


class Cpprb:
    """cpprb's replay buffer, with `next_of` and, for frames, `stack_compress`."""

    def __init__(self, task: str, size: int, prioritized: bool) -> None:
        cpprb = importlib.import_module("cpprb")
        space = TASKS[task]
        # cpprb expects stacks along the last axis.
        self.axes = (1, 2, 0) if task == "Atari" else (0,)
        shape = tuple(space.shape[axis] for axis in self.axes)
        layout = {"obs": {"shape": shape, "dtype": space.dtype}, "act": {"dtype": np.int64}, "rew": {}, "done": {}}
        kind = cpprb.PrioritizedReplayBuffer if prioritized else cpprb.ReplayBuffer
        self.buffer = kind(size, layout, next_of="obs", stack_compress="obs" if task == "Atari" else None)

    def prepare(self, data: Data) -> list[Any]:
        """Returns the keyword arguments of cpprb's `add`, each with True if the episode ends."""
        turned = [[np.ascontiguousarray(o[0].transpose(self.axes)) for o in part] for part in (data.obs, data.next_obs)]
        return [
            ({"obs": obs, "next_obs": next_obs, "act": action, "rew": reward, "done": done}, bool(done[0]))
            for obs, next_obs, action, reward, done in zip(*turned, data.action, data.reward, data.done, strict=True)
        ]

    def add(self, step: Any) -> None:
        """Adds one transition."""
        self.buffer.add(**step[0])
        if step[1]:
            self.buffer.on_episode_end()

    def sample(self) -> Any:
        """Draws a batch."""
        return self.buffer.sample(BATCH)

    def sample_and_prioritize(self, priorities: Any) -> None:
        """Draws a batch and gives its transitions new priorities."""
        self.buffer.update_priorities(self.buffer.sample(BATCH, beta=0.5)["indexes"], priorities)


class TorchRL:
    """torchrl's uniform replay buffer, with tensors in memory."""

    def __init__(self, task: str, size: int, prioritized: bool) -> None:
        data = importlib.import_module("torchrl.data")
        storage = data.LazyTensorStorage(size)
        self.buffer = data.TensorDictReplayBuffer(storage=storage, batch_size=BATCH)

    def prepare(self, data: Data) -> list[Any]:
        """Returns one tensordict per transition."""
        import torch

        make = importlib.import_module("tensordict").TensorDict
        return [
            make({name: torch.from_numpy(array)[0] for name, array in zip(Data._fields, step, strict=True)}, [])
            for step in zip(*data, strict=True)
        ]

    def add(self, step: Any) -> None:
        """Adds one transition."""
        self.buffer.add(step)

    def sample(self) -> Any:
        """Draws a batch."""
        return self.buffer.sample()


class System(NamedTuple):
    """A row of the table: a buffer, and the package that it needs."""

    buffer: type[Any]
    package: str


SYSTEMS = {
    "rlkit": System(Rlkit, "rlkit"),
    "rlkit, on disk": System(OnDisk, "rlkit"),
    "sb3": System(SB3, "stable_baselines3"),
    "sb3, optimised": System(OptimisedSB3, "stable_baselines3"),
    "cpprb": System(Cpprb, "cpprb"),
    "torchrl": System(TorchRL, "torchrl"),
}


def measure(system: str, task: str) -> dict[str, float]:
    """Measures one buffer, in this process, which should do nothing else."""
    import torch

    torch.set_num_threads(1)
    kind, size = SYSTEMS[system].buffer, SIZES[task]
    steps = kind(task, 10, False).prepare(make_data(task))
    before = occupied_bytes()
    buffer = kind(task, size, False)
    started = time.process_time()
    for i in range(size):
        buffer.add(steps[i % len(steps)])
    adding = time.process_time() - started
    figures = {"bytes": (occupied_bytes() - before) / size, "adds": size / adding, "samples": rate(buffer.sample)}
    if hasattr(buffer, "sample_and_prioritize"):
        del buffer
        buffer = kind(task, size, True)
        for i in range(size // 5):
            buffer.add(steps[i % len(steps)])
        priorities = np.random.default_rng(0).random(BATCH).astype(np.float32) + 0.1
        figures["prioritized_samples"] = rate(lambda: buffer.sample_and_prioritize(priorities))
    return figures


def rate(function: Callable[[], Any], seconds: float = 1.0) -> float:
    """Measures calls per CPU second, without the first few."""
    for _ in range(3):
        function()
    calls, started = 0, time.process_time()
    while (spent := time.process_time() - started) < seconds:
        function()
        calls += 1
    return calls / spent


def occupied_bytes() -> int:
    """Returns the memory of this process in bytes, without cached pages of files, which the system may drop."""
    _, resident, files, *_ = map(int, Path("/proc/self/statm").read_text().split())
    return (resident - files) * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    """Runs the benchmark, or a single measurement of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=3, help="of each measurement (default 3)")
    parser.add_argument("--systems", nargs="*", choices=SYSTEMS, default=list(SYSTEMS), help="which to measure")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder to write to")
    parser.add_argument("--one", nargs=2, metavar=("SYSTEM", "TASK"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(*given.one)))
        return
    systems = [name for name in given.systems if find_spec(SYSTEMS[name].package)]
    runs: dict[str, dict[str, list[dict[str, float]]]] = {task: {name: [] for name in systems} for task in TASKS}
    for _ in range(given.repetitions):
        for task in TASKS:
            for name in systems:
                runs[task][name].append(in_a_process(name, task))
    results = {
        task: {name: {key: median(run[key] for run in found) for key in found[0]} for name, found in runs[task].items()}
        for task in TASKS
    }
    packages = {SYSTEMS[name].package for name in systems} - {"rlkit"}
    versions = {"rlkit": rlkit.__version__, **{name: version(name.replace("_", "-")) for name in sorted(packages)}}
    about = {"machine": platform.machine(), "python": platform.python_version(), "versions": versions}
    given.results.mkdir(parents=True, exist_ok=True)
    (given.results / "replay.json").write_text(json.dumps({**about, "results": results}, indent=2) + "\n")
    text = table(results, versions)
    (given.results / "replay.md").write_text(text)
    print(text)


def in_a_process(system: str, task: str) -> dict[str, float]:
    """Makes one measurement in a fresh process."""
    command = [sys.executable, __file__, "--one", system, task]
    done = subprocess.run(command, env={**os.environ, **ONE_THREAD}, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{system} on {task} failed:\n{done.stderr}")
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def table(results: dict[str, Any], versions: dict[str, str]) -> str:
    """Returns the results as a table in Markdown."""
    lines = [
        "# Replay buffers",
        "",
        f"Written by `python benchmarks/replay.py`: medians, batches of {BATCH}, one thread; rates are per CPU second.",
        f"Versions: {', '.join(f'{name} {number}' for name, number in versions.items())}.",
        "",
    ]
    for task, systems in results.items():
        size = f"{SIZES[task]:,} transitions of {TASKS[task].shape} {TASKS[task].dtype}"
        lines += [f"## {task}: {size}", "", f"| | {' | '.join(COLUMNS.values())} |", "|---|" + "---:|" * len(COLUMNS)]
        for name, figures in systems.items():
            cells = [f"{figures[key]:,.0f}" if key in figures else "–" for key in COLUMNS]
            lines.append(f"| {name} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
