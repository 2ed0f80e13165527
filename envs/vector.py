"""Vector environments in SAME_STEP mode, based on Gymnasium's: faster in this process, safer in worker processes."""

from __future__ import annotations

import contextlib
import functools
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from multiprocessing import active_children, connection
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.vector.async_vector_env import AsyncState, _async_worker
from gymnasium.vector.utils import CloudpickleWrapper, iterate

from rlkit.action_masks import KEY
from rlkit.envs.check import checked_flags, checked_info, checked_reset, checked_rewards, checked_step
from rlkit.envs.lifetime import close_all, seed_spaces
from rlkit.envs.state import read_env, write_env
from rlkit.envs.wrappers import WorkerEnv
from rlkit.errors import RlkitError
from rlkit.spaces import Array, stacked
from rlkit.system.processes import NEEDS_GUARD, allow_children, end_with_parent, interrupts_deferred, reruns_main

Env = gym.Env[Any, Any]
Transitions = tuple[Any, Any, Any, Any, dict[str, Any]]
"""Observations, rewards, terminated and truncated, each (num_envs, ...), and infos."""

Leaves = Sequence[Array]
"""The leaves of one observation."""
WITHOUT = "vectorization=sync does without them"
"""Advice, in errors of worker processes."""
CLOSING_TIME = 2.0
"""Seconds that a worker has to close its environment once its parent is gone."""


class NeededInfos(gym.vector.VectorEnv[Any, Any, Any]):
    """A vector environment whose infos have what a collector needs of its environments' infos, and nothing else.

    These are an episode's last observation and the action masks, each in an array of objects, with None where there is
    none. All else in an environment's info is its own business: its shapes and types may differ from one environment to
    another, and from step to step, so that no array could hold them.
    """

    def _add_info(self, vector_infos: dict[str, Any], env_info: dict[str, Any], env_num: int) -> dict[str, Any]:
        for key in ("final_obs", KEY):
            if key in env_info:
                if key not in vector_infos:
                    vector_infos[key] = np.full(self.num_envs, None, object)
                vector_infos[key][env_num] = env_info[key]
        return vector_infos


class SyncVectorEnv(NeededInfos, gym.vector.SyncVectorEnv[Any, Any]):
    """A vector environment that steps its environments one after the other in this process.

    Its data are those of Gymnasium's SyncVectorEnv in SAME_STEP mode, apart from infos. It does less between the
    environments' own steps, which gives a quarter more steps of CartPole per second, and it returns new arrays from
    every step.
    """

    vectorization = "sync"
    """The value of `TrainConfig.vectorization` that stands for it."""

    def __init__(self, env_fns: Sequence[Callable[[], Env]]) -> None:
        """Makes the environments; if one cannot be made, closes the others before it raises that error."""
        made: list[Env] = []
        try:
            for env_fn in env_fns:
                made.append(env_fn())
            super().__init__([functools.partial(_itself, env) for env in made], autoreset_mode=AutoresetMode.SAME_STEP)
        except BaseException:
            self.closed = True
            close_all(made)
            raise
        self._actions_of = iterate.dispatch(type(self.action_space))  # looked up once, not at every step

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Resets every environment; `seed` is the first one's, after which they count up, or a list of all seeds."""
        if options is not None and "reset_mask" in options:
            return super().reset(seed=seed, options=options)
        if seed is None or isinstance(seed, int):
            seed = [None if seed is None else seed + i for i in range(self.num_envs)]
        infos: dict[str, Any] = {}
        for i, (env, own_seed) in enumerate(zip(self.envs, seed, strict=True)):
            if own_seed is not None:
                seed_spaces(env, own_seed)
            self._env_obs[i], info = checked_reset(env.reset(seed=own_seed, options=options))
            infos = self._add_info(infos, info, i)
        return stacked(self.single_observation_space, self._env_obs), infos

    def step(self, actions: Any) -> Transitions:
        """Steps every environment, and resets those whose episode ended; `final_obs` in infos has what they ended with.

        Raises Misfit for what does not fit; the numbers in observations and rewards are left to whoever gets them.
        """
        all_obs, rewards, terminations, truncations = [], [], [], []
        infos: dict[str, Any] = {}
        for i, (env, action) in enumerate(zip(self.envs, self._actions_of(self.action_space, actions), strict=True)):
            result = env.step(action)
            try:
                obs, reward, terminated, truncated, info = result
                over = terminated or truncated
            except Exception:  # what is no tuple of five, or an array where a bool should be
                obs, reward, terminated, truncated, info = checked_step(result)
                over = terminated or truncated
            if type(info) is not dict:
                checked_info(info)
            if over:
                # A copy, because some environments write every observation into the same array, at reset too.
                infos = self._add_info(infos, {"final_obs": deepcopy(obs)}, i)
                obs, info = checked_reset(env.reset())
            if KEY in info:
                infos = self._add_info(infos, {KEY: info[KEY]}, i)
            all_obs.append(obs)
            rewards.append(reward)
            terminations.append(terminated)
            truncations.append(truncated)
        self._env_obs = all_obs  # Gymnasium needs it to reset only some environments, by options["reset_mask"]
        return (
            stacked(self.single_observation_space, all_obs),
            checked_rewards(rewards),
            checked_flags("terminated", terminations),
            checked_flags("truncated", truncations),
            infos,
        )

    def read_states(self) -> list[dict[str, Any]]:
        """Returns the state of every environment, as `read_env` does."""
        return [read_env(env) for env in self.envs]

    def write_states(
        self, states: Sequence[Mapping[str, Any]], last_obs: Sequence[Sequence[Array]]
    ) -> list[str | None]:
        """Restores the state of every environment, and returns reasons, as `write_env` does."""
        return [write_env(env, state, obs) for env, state, obs in zip(self.envs, states, last_obs, strict=True)]

    def close_extras(self, **kwargs: Any) -> None:
        """Closes every environment, though closing another one may raise an exception."""
        close_all(self.envs)


class AsyncVectorEnv(NeededInfos, gym.vector.AsyncVectorEnv[Any, Any]):
    """A vector environment that steps every environment in a process of its own, started by spawn.

    The workers end with this process, however it ends, and ignore Ctrl-C. `name` is the environment's name in errors.
    Raises RlkitError if the environment cannot be made in a worker, when a worker dies, and in a script without a main
    guard.
    """

    vectorization = "async"
    """The value of `TrainConfig.vectorization` that stands for it."""

    def __init__(self, env_fns: Sequence[Callable[[], Env]], name: str) -> None:
        self._name = name
        if reruns_main():
            self.closed = True
            raise RlkitError(f"vectorization=async starts processes: {NEEDS_GUARD}; or vectorization=sync")
        # In bytes, so that it is unpickled where an error of that can be sent home.
        packed = [functools.partial(_unpacked, pickle.dumps(CloudpickleWrapper(env_fn))) for env_fn in env_fns]
        worker = functools.partial(_worker, name=name)
        try:
            with self._dead_workers_reported(), interrupts_deferred():
                super().__init__(packed, context="spawn", worker=worker, autoreset_mode=AutoresetMode.SAME_STEP)
        except BaseException:
            self.closed = True
            for process in getattr(self, "processes", []):
                if process.pid is not None:
                    process.terminate()
                    process.join()
            raise

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Resets every environment; `seed` is the first one's, after which they count up, or a list of all seeds."""
        with self._dead_workers_reported():
            return super().reset(seed=seed, options=options)

    def step(self, actions: Any) -> Transitions:
        """Steps every environment, and resets those whose episode ended; `final_obs` has what they ended with."""
        with self._dead_workers_reported():
            return super().step(actions)

    def read_states(self) -> list[dict[str, Any]]:
        """Returns the state of every environment and of its process's global generators, as `read_env` does."""
        return self._called("state", [()] * self.num_envs)

    def write_states(
        self, states: Sequence[Mapping[str, Any]], last_obs: Sequence[Sequence[Array]]
    ) -> list[str | None]:
        """Restores the state of every environment, and returns reasons, as `write_env` does."""
        return self._called("restore", list(zip(states, last_obs, strict=True)))

    def _called(self, method: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Calls a method of the wrapper around each environment, with arguments of its own."""
        with self._dead_workers_reported():
            for pipe, own in zip(self.parent_pipes, arguments, strict=True):
                pipe.send(("_call", (method, own, {})))
            results, successes = zip(*[pipe.recv() for pipe in self.parent_pipes], strict=True)
            self._raise_if_errors(successes)
        return list(results)

    def close_extras(self, timeout: float | None = None, terminate: bool = False) -> None:
        """Ends the workers; after an interrupted step it does not wait for answers, which may be lost already."""
        terminate = terminate or self._state is not AsyncState.DEFAULT
        self._state = AsyncState.DEFAULT
        try:
            super().close_extras(timeout, terminate)
        except (EOFError, ConnectionError):
            super().close_extras(terminate=True)

    def _raise_if_errors(self, successes: Any) -> None:
        """Raises the first error of the workers, without printing their tracebacks as Gymnasium does."""
        errors = [self.error_queue.get() for success in successes if not success]
        for index, *_ in errors:
            self.parent_pipes[index].close()
            self.parent_pipes[index] = None  # type: ignore[call-overload]  # Gymnasium's mark of an ended worker
        if errors:
            self._state = AsyncState.DEFAULT
            raise errors[0][2]

    @contextlib.contextmanager
    def _dead_workers_reported(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, ConnectionError) as error:
            ended = connection.wait([process.sentinel for process in self.processes], timeout=1)
            dead = [process for process in self.processes if process.sentinel in ended]
            for process in dead:
                process.join(timeout=1)
            codes = ", ".join(sorted({str(process.exitcode) for process in dead}))
            if hasattr(self, "_state"):
                self.close(terminate=True)
            raise RlkitError(f"env {self._name}: a worker process died (exit code {codes}); {WITHOUT}") from error


def _worker(
    index: int, env_fn: Callable[[], Env], pipe: Any, parent_pipe: Any, memory: Any, errors: Any, *args: Any, name: str
) -> None:
    """Runs Gymnasium's worker, but ends it quietly with its parent, even when the parent is killed.

    If the environment cannot be made, the error is the answer to the parent's first command.
    """
    end_with_parent(CLOSING_TIME)
    allow_children()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        try:
            env = env_fn()
        except BaseException as error:
            reason = str(error)
            if not isinstance(error, RlkitError):
                reason = f"env {name}: making it raised {type(error).__name__}: {error}"
            message = " ".join(f"{reason}, in a worker process; {WITHOUT}".split())
            errors.put((index, RlkitError, RlkitError(message), ""))
            parent_pipe.close()
            pipe.recv()
            pipe.send((None, False))
            return
        try:
            _async_worker(index, functools.partial(_itself, env), pipe, parent_pipe, memory, errors, *args)
        finally:
            for child in active_children():  # which the environment has not ended, and which would be waited for
                child.terminate()


def _itself(env: Env) -> Env:
    return env


def _unpacked(packed: bytes) -> WorkerEnv:
    return WorkerEnv(pickle.loads(packed)())  # the bytes are this program's, of a moment ago
