"""Environments as users have them that start processes, exist once, draw from global generators, or never end."""

from __future__ import annotations

import functools
import multiprocessing
import os
import random
import socket
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces

Reset = tuple[Any, dict[str, Any]]
Transition = tuple[Any, float, bool, bool, dict[str, Any]]


class Ten(gym.Env[Any, Any]):
    """Ten steps of reward 1, of which each takes `step_time` seconds; what the others are derived from."""

    limit: int | None = 10

    def __init__(self, step_time: float = 0.0) -> None:
        self.observation_space: spaces.Space[Any] = spaces.Box(-1, 1, (2,), np.float32)
        self.action_space: spaces.Space[Any] = spaces.Discrete(2)
        self.step_time = step_time
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Reset:
        super().reset(seed=seed)
        self.steps = 0
        return self.observation(), {}

    def step(self, action: Any) -> Transition:
        time.sleep(self.step_time)
        self.steps += 1
        return self.observation(), self.reward(), self.steps == self.limit, False, {}

    def observation(self) -> Any:
        return np.full(2, self.steps / 10, np.float32)

    def reward(self) -> float:
        return 1.0


def echo(pipe: Any) -> None:
    """The simulator's process: answers until it is sent None."""
    while (number := pipe.recv()) is not None:
        pipe.send(number)


class StartsProcess(Ten):
    """Has a simulator in a process of its own; `leave` does not end it."""

    def __init__(self, step_time: float = 0.0, method: str = "spawn", leave: bool = False) -> None:
        super().__init__(step_time)
        context: Any = multiprocessing.get_context(method)
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=echo, args=(theirs,))
        self.process.start()
        theirs.close()
        self.leave = leave

    def observation(self) -> Any:
        self.pipe.send(self.steps / 10)
        return np.full(2, self.pipe.recv(), np.float32)

    def close(self) -> None:
        if not self.leave:
            self.pipe.send(None)
            self.process.join()


class OncePerMachine(Ten):
    """Holds a port, as a simulator does that exists once."""

    def __init__(self, port: int, step_time: float = 0.0) -> None:
        super().__init__(step_time)
        self.socket = socket.socket()
        try:
            self.socket.bind(("127.0.0.1", port))
        except OSError:
            self.socket.close()
            raise

    def close(self) -> None:
        self.socket.close()


class OncePerProcess(Ten):
    """Can exist once in each process, or as often as `times` says."""

    alive: ClassVar[list[Any]] = []

    def __init__(self, times: int = 1) -> None:
        super().__init__()
        if len(self.alive) == times:
            raise RuntimeError("the engine is initialised already")
        self.alive.append(self)

    def close(self) -> None:
        self.alive.remove(self)


class NotInWorkers(Ten):
    """Does not work in any process but the first one; `fault` says how it fails there."""

    def __init__(self, fault: str, step_time: float = 0.0) -> None:
        super().__init__(step_time)
        self.fault = fault
        if multiprocessing.parent_process() is None:
            return
        if fault == "constructor":
            raise OSError("no\ndisplay")
        if fault == "exit":
            sys.exit("no licence")
        if fault == "killed":
            os._exit(9)

    def reset(self, **options: Any) -> Reset:
        if self.fault == "reset" and multiprocessing.parent_process() is not None:
            raise RuntimeError("no display")
        return super().reset(**options)


class Maker:
    """An entry point that can be unpickled in the main process only."""

    def __call__(self, **kwargs: Any) -> gym.Env[Any, Any]:
        return Ten(**kwargs)

    def __reduce__(self) -> Any:
        return _only_here, ()


def _only_here() -> Maker:
    if multiprocessing.parent_process() is not None:
        raise ImportError("libsim.so: cannot open shared object file")
    return Maker()


class Draws(Ten):
    """Observations, rewards and episodes' ends from generators that are not its own; `source` says which."""

    def __init__(self, source: str, step_time: float = 0.0, in_constructor: bool = False) -> None:
        super().__init__(step_time)
        self.source, self.limit = source, None
        if source == "torch":
            import torch  # noqa: F401  (at the first reset it is there to be seeded)
        self.offset = self.draw() if in_constructor else 0.0

    def draw(self) -> float:
        """A number from 0 to 1."""
        match self.source:
            case "numpy":
                return float(np.random.random())
            case "python":
                return random.random()
            case "torch":
                import torch  # only here, since all other tests' workers would wait for it

                return float(torch.rand(()))
            case "action space":
                return float(self.action_space.sample()) / 2 + float(self.observation_space.sample()[0]) / 4 + 0.25
            case "observation space":
                return float(self.observation_space.sample()[0]) / 2 + 0.5
        raise ValueError(self.source)

    def observation(self) -> Any:
        return np.array([self.draw(), self.offset], np.float32)

    def reward(self) -> float:
        return self.draw()

    def step(self, action: Any) -> Transition:
        obs, reward, _, _, info = super().step(action)
        return obs, reward, self.draw() < 0.1, False, info


class WrappedDraws(gym.Wrapper[Any, Any, Any, Any]):
    """Draws from the spaces of a wrapper, which are not those of what it wraps."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(Ten(**kwargs))
        self.action_space = spaces.Discrete(2)

    def step(self, action: Any) -> Any:
        obs, _, terminated, truncated, info = self.env.step(action)
        return obs, float(self.action_space.sample()), terminated, truncated, info


class SmallSeeds(Ten):
    """Keeps its seed as an int32, as a C library does."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Reset:
        if seed is not None:
            np.int32(seed)
        return super().reset(seed=seed)


class Endless(Ten):
    """Never ends; notes each of its steps in a file."""

    limit = None

    def __init__(self, steps: str, limit: int | None = None) -> None:
        super().__init__()
        self.file, self.limit = Path(steps), limit

    def observation(self) -> Any:
        return np.zeros(2, np.float32)

    def step(self, action: Any) -> Transition:
        with self.file.open("a") as file:
            file.write(".")
        return super().step(action)


class CannotClose(Ten):
    """Raises when it is closed."""

    def close(self) -> None:
        raise ValueError("already\nclosed")


class Counted(Ten):
    """Knows how many there are of it, and how many there were at most."""

    alive = most = 0

    def __init__(self) -> None:
        super().__init__()
        Counted.alive += 1
        Counted.most = max(Counted.most, Counted.alive)

    def close(self) -> None:
        Counted.alive -= 1


for kind in (
    *(Ten, StartsProcess, OncePerMachine, OncePerProcess, NotInWorkers, Draws, WrappedDraws, SmallSeeds, Endless),
    *(CannotClose, Counted),
):
    gym.register(f"stubborn/{kind.__name__}-v0", f"stubborn_envs:{kind.__name__}")
gym.register("stubborn/OnlyHere-v0", Maker())
gym.register("stubborn/Limited-v0", "stubborn_envs:Endless", max_episode_steps=1500)
gym.register("stubborn/Partial-v0", functools.partial(Ten, step_time=0.0))
