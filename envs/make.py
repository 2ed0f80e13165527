"""Functions that make environments: single ones, and vectors of them."""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec, load_env_creator
from gymnasium.vector import VectorEnv

from rlkit.envs.atari import FRAME_SKIP, atari_stack, is_atari, native_atari_kwargs, silence_banner
from rlkit.envs.check import check_env, env_errors, sample_action
from rlkit.envs.pool import make_envpool
from rlkit.envs.vector import AsyncVectorEnv, SyncVectorEnv
from rlkit.envs.wrappers import ActionMaskInfo
from rlkit.errors import RlkitError, check_choice, check_range, unknown
from rlkit.system.processes import num_cores

Env = gym.Env[Any, Any]

PLUGINS = ("ale_py", "minatar.gym", "minigrid", "gymnasium_robotics", "highway_env")
"""Packages that register environments when they are imported, or in their `register_envs`."""

VECTORIZATIONS = ("auto", "sync", "async", "native", "envpool")
"""The ways to step several environments."""

NATIVE_MIN_ENVS = 64
"""Least number of environments for which `auto` takes a native vector environment, because NumPy's calls have a fixed
cost that only pays for many environments."""

ASYNC_STEP_COST = 200e-6
"""Seconds by which a worker process makes a step longer; 90 to 190 µs were measured for 2 to 8 workers on 2 cores."""


def find_spec(id: str) -> EnvSpec:
    """Returns Gymnasium's registration of an id.

    For `module:Id` the module is imported first, and for other unknown ids the packages in PLUGINS are. Raises
    RlkitError for an id that is not registered, with the nearest one that is.
    """
    module, _, name = id.rpartition(":")
    if module:
        with env_errors(id, f"importing {module}"):
            importlib.import_module(module)
    if name not in gym.registry:
        _register_plugins()
    if name not in gym.registry:
        raise _unknown_id(name)
    return gym.registry[name]


def _unknown_id(name: str) -> RlkitError:
    namespace = name.rpartition("/")[0]
    related = [id for id in gym.registry if id.rpartition("/")[0] == namespace]
    if related:
        return unknown("env", name, related)
    return RlkitError(
        f"unknown env '{name}': nothing is registered under '{namespace}/'; install the package that does (Atari: "
        f"ale-py), or name its module, as in package.module:{name}"
    )


def check_id(id: str) -> None:
    """Raises RlkitError for an id that is not registered, without making an environment."""
    find_spec(id)


@functools.cache
def _register_plugins() -> None:
    for name in PLUGINS:
        try:
            plugin = importlib.import_module(name)
        except ModuleNotFoundError:
            continue
        if hasattr(plugin, "register_envs"):
            plugin.register_envs()


@dataclass(frozen=True)
class EnvFactory:
    """A function that makes one environment, in this process or in a worker, to which it can be sent."""

    id: str
    """A registered id, or `package.module:Id`."""
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments for the environment's constructor."""
    preprocessing: str = "auto"
    """`atari`, `none`, or `auto`: `atari` for `ALE/…` ids."""
    training: bool = True
    """True for training, in which the Atari stack clips rewards and ends episodes with each life."""
    render_mode: str | None = None
    """Gymnasium's render mode, which determines what `render` returns."""

    def __call__(self, spec: EnvSpec | None = None) -> Env:
        """Makes the environment; `spec` is its registration, for a process in which the id is not registered.

        Raises RlkitError for an unknown id, for a constructor that raises an exception, and if the Atari stack is asked
        for around another environment.
        """
        spec = spec or find_spec(self.id)
        stacked = self.has_atari_stack(spec)
        kwargs = dict(self.kwargs)
        if self.render_mode is not None:
            kwargs["render_mode"] = self.render_mode
        with env_errors(self.id, "making it"):
            if is_atari(spec):
                silence_banner()
            # Gymnasium's checker would cost time at every step; `check_env` checks one environment for all instead.
            env = gym.make(spec, disable_env_checker=True, **({**kwargs, "frameskip": 1} if stacked else kwargs))
            if stacked:
                env = atari_stack(env, frame_skip=kwargs.get("frameskip", FRAME_SKIP), training=self.training)
            return ActionMaskInfo(env) if env.has_wrapper_attr("action_masks") else env

    def has_atari_stack(self, spec: EnvSpec) -> bool:
        """True if the environment gets the Atari stack; raises RlkitError if it should, but is no Atari game."""
        if self.preprocessing == "atari" and not is_atari(spec):
            raise RlkitError(f"env {self.id}: preprocessing=atari is for Atari environments only; use none or auto")
        return self.preprocessing == "atari" or (self.preprocessing == "auto" and spec.namespace == "ALE")


def make_env(factory: EnvFactory) -> Env:
    """Makes one environment and checks it; raises RlkitError like `check_env`."""
    return make_noted_env(factory)[0]


def make_noted_env(factory: EnvFactory) -> tuple[Env, list[str]]:
    """Makes one environment and checks it; also returns notes on it, and raises RlkitError, like `check_env`."""
    env = factory()
    try:
        return env, check_env(env, factory.id)
    except RlkitError:
        env.close()
        raise


def make_vector_env(
    factory: EnvFactory, num_envs: int, vectorization: str = "auto"
) -> tuple[VectorEnv[Any, Any, Any], str]:
    """Makes a vector environment; also returns a sentence that names its implementation and the reason for it.

    The notes of `check_env` follow it. `sync` and `async` reset in the step that ends an episode (SAME_STEP), and give
    equal data. A native vector environment resets as its `metadata["autoreset_mode"]` says. Raises RlkitError for an
    environment that cannot be made or does not fit its own spaces, and for `native` if there is no native
    implementation.
    """
    check_choice("vectorization", vectorization, VECTORIZATIONS)
    check_range("num_envs", num_envs, 1)
    env, notes = make_noted_env(factory)
    envs, choice = _vector_env(factory, find_spec(factory.id), env, num_envs, vectorization)
    return envs, "; ".join([choice, *notes])


def _vector_env(
    factory: EnvFactory, spec: EnvSpec, env: Env, num_envs: int, vectorization: str
) -> tuple[VectorEnv[Any, Any, Any], str]:
    reason = "as asked for"
    if vectorization == "envpool":
        with contextlib.closing(env), env_errors(factory.id, f"making {num_envs} of it by EnvPool"):
            stacked = factory.has_atari_stack(spec)
            envs = make_envpool(spec, env, num_envs, factory.kwargs, stacked=stacked, training=factory.training)
            return envs, f"EnvPool's vector environment: {reason}"
    if vectorization == "auto":
        vectorization, reason = _choose(factory, spec, env, num_envs)
    env.close()
    with env_errors(factory.id, f"making {num_envs} of it"):
        if vectorization == "native":
            return _make_native(factory, spec, num_envs), f"native vector environment: {reason}"
        env_fns = [functools.partial(factory, spec)] * num_envs
        if vectorization == "async":
            return AsyncVectorEnv(env_fns, factory.id), f"async, {num_envs} worker processes: {reason}"
        return SyncVectorEnv(env_fns), f"sync, in this process: {reason}"


def _choose(factory: EnvFactory, spec: EnvSpec, env: Env, num_envs: int) -> tuple[str, str]:
    """Returns the fastest implementation, and the reason.

    Native implementations may give other data, because of one generator for all environments and of rounding. So they
    are not chosen by anything that varies from run to run. Sync and async give equal data, so a measurement may choose
    between them.
    """
    if _has_native(factory, spec):
        if is_atari(spec):
            return "native", "ale-py steps its environments in threads"
        if num_envs >= NATIVE_MIN_ENVS:
            return "native", f"{factory.id} has one, which pays from {NATIVE_MIN_ENVS} environments on"
    parallel = min(num_cores(), num_envs)
    if parallel == 1:
        return "sync", "there is one environment, or one core"
    with env_errors(factory.id, "step"):
        step_time = _step_time(env)
    # A step takes step_time / parallel + ASYNC_STEP_COST with worker processes, and step_time without.
    pays_from = ASYNC_STEP_COST / (1 - 1 / parallel)
    comparison = f"a step takes {step_time * 1e3:.2g} ms; worker processes pay from {pays_from * 1e3:.2g} ms on"
    return ("async" if step_time > pays_from else "sync"), comparison


def _step_time(env: Env, seconds: float = 0.05, max_steps: int = 500) -> float:
    """Measures the seconds that a random step takes, including its share of resets."""
    _, info = env.reset(seed=0)
    steps, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds and steps < max_steps:
        _, _, terminated, truncated, info = env.step(sample_action(env.action_space, info.get("action_mask")))
        if terminated or truncated:
            _, info = env.reset()
        steps += 1
    return elapsed / steps


def _has_native(factory: EnvFactory, spec: EnvSpec) -> bool:
    """True if the environment has a vector implementation that can do the same as `factory`."""
    if spec.vector_entry_point is None or spec.additional_wrappers or factory.render_mode is not None:
        return False
    if is_atari(spec) and not factory.has_atari_stack(spec):
        return False
    entry_point = spec.vector_entry_point
    creator = entry_point if callable(entry_point) else load_env_creator(entry_point)
    return set(factory.kwargs) <= set(inspect.signature(creator).parameters)


def _make_native(factory: EnvFactory, spec: EnvSpec, num_envs: int) -> VectorEnv[Any, Any, Any]:
    if not _has_native(factory, spec):
        with_kwargs = f" with env_kwargs={dict(factory.kwargs)}" if factory.kwargs else ""
        raise RlkitError(
            f"vectorization=native: {factory.id} has no vector implementation of its own{with_kwargs}; "
            "use sync, async or auto"
        )
    kwargs = dict(factory.kwargs)
    if is_atari(spec):
        kwargs = native_atari_kwargs(kwargs, training=factory.training)
    return gym.make_vec(spec, num_envs, "vector_entry_point", **kwargs)
