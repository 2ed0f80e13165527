"""Functions that make environments: single ones, and vectors of them."""

from __future__ import annotations

import functools
import importlib
import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import mean, median
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec, load_env_creator
from gymnasium.vector import VectorEnv

from rlkit.envs.atari import FRAME_SKIP, atari_stack, is_atari, native_atari_kwargs, silence_banner
from rlkit.envs.check import check_env, env_errors, sample_action
from rlkit.envs.lifetime import close_all
from rlkit.envs.pool import make_envpool
from rlkit.envs.state import Recorded, is_readable
from rlkit.envs.vector import WITHOUT, AsyncVectorEnv, SyncVectorEnv
from rlkit.envs.wrappers import ActionMaskInfo
from rlkit.errors import RlkitError, check_choice, check_range, unknown
from rlkit.system.processes import NEEDS_GUARD, num_cores, reruns_main
from rlkit.system.seeding import env_seeds, global_state, seed_globally, seeded_globally

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

IN_DOUBT = 1.5
"""Factor by which a step is longer than what worker processes would make up for before `auto` starts them, because the
cores may be busy when the run is, and worker processes keep them busy themselves."""


def find_spec(id: str) -> EnvSpec:
    """Returns Gymnasium's registration of an id.

    For `module:Id` the module is imported first, and for other unknown ids the packages in PLUGINS are. Raises
    RlkitError for an id that is not registered, with the nearest one that is.
    """
    module, colon, name = id.rpartition(":")
    if colon:
        if "" in module.split("."):
            raise RlkitError(f"env '{id}' names no module before the colon; expected an id, or package.module:Id")
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
    recorded: bool = False
    """True if its episodes are recorded, so that an interrupted one can be played again."""

    def __call__(self, spec: EnvSpec | None = None, seed: int | None = None) -> Env:
        """Makes the environment; `spec` is its registration, for a process in which the id is not registered.

        With a `seed`, the global generators start from it, because constructors may draw from them.
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
            if seed is not None:
                if isinstance(spec.entry_point, str):
                    load_env_creator(spec.entry_point)  # first, because it may import torch, which is seeded as well
                seed_globally(seed)
            # Gymnasium's checker would cost time at every step; `check_env` checks one environment for all instead.
            env = gym.make(spec, disable_env_checker=True, **({**kwargs, "frameskip": 1} if stacked else kwargs))
            if stacked:
                env = atari_stack(env, frame_skip=kwargs.get("frameskip", FRAME_SKIP), training=self.training)
            env = ActionMaskInfo(env) if env.has_wrapper_attr("action_masks") else env
            return Recorded(env) if self.recorded else env

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
        close_all([env])
        raise


def make_vector_env(
    factory: EnvFactory, num_envs: int, vectorization: str = "auto", seed: int = 0
) -> tuple[VectorEnv[Any, Any, Any], str]:
    """Makes a vector environment; also returns a sentence that names its implementation and the reason for it.

    The notes of `check_env` follow it. `sync` and `async` reset in the step that ends an episode (SAME_STEP), and give
    equal data, unless the environment draws from global generators, of which every process has its own. Constructors
    find them as `seed` says. A native vector environment resets as its `metadata["autoreset_mode"]` says. Raises
    RlkitError for an environment that cannot be made or does not fit its own spaces, and for `native` if there is no
    native implementation.
    """
    check_choice("vectorization", vectorization, VECTORIZATIONS)
    check_range("num_envs", num_envs, 1)
    wanted, reason = vectorization, "as asked for"
    with seeded_globally(seed):  # how long it is tried out, and how much it draws in that, depends on its speed
        env, notes = make_noted_env(factory)
        if vectorization == "auto":
            wanted, reason = _choose(factory, find_spec(factory.id), env, num_envs)
        factory = replace(factory, recorded=not is_readable(env))
        close_all([env])
    envs, choice = _vector_env(factory, num_envs, wanted, reason, seed, may_fall_back=vectorization == "auto")
    return envs, "; ".join([choice, *notes])


def _vector_env(
    factory: EnvFactory, num_envs: int, wanted: str, reason: str, seed: int, *, may_fall_back: bool
) -> tuple[VectorEnv[Any, Any, Any], str]:
    spec = find_spec(factory.id)
    if wanted == "envpool":
        return _make_envpool(factory, spec, num_envs)
    if wanted == "native":
        with env_errors(factory.id, f"making {num_envs} of it"):
            return _make_native(factory, spec, num_envs), f"native vector environment: {reason}"
    env_fns = [functools.partial(factory, spec, own_seed) for own_seed in env_seeds(seed, num_envs)]
    if wanted == "async":
        try:
            envs = _make_async(env_fns, factory.id, try_reset=may_fall_back)
            return envs, f"async, {num_envs} worker processes: {reason}"
        except RlkitError as error:
            if not may_fall_back:
                raise
            reason = f"worker processes were tried, but {error}".removesuffix(f"; {WITHOUT}")
    return _make_sync(env_fns, factory.id), f"sync, in this process: {reason}"


def _make_sync(env_fns: Sequence[Callable[[], Env]], name: str) -> SyncVectorEnv:
    with env_errors(name, f"making {len(env_fns)} of it"):
        try:
            return SyncVectorEnv(env_fns)
        except RlkitError as error:
            if len(env_fns) == 1:
                raise
            raise RlkitError(f"{error}; one could be made, but not {len(env_fns)} at once: num_envs=1") from error


def _make_async(env_fns: Sequence[Callable[[], Env]], name: str, *, try_reset: bool) -> AsyncVectorEnv:
    """Makes environments in worker processes; `try_reset` finds out if a reset works there as well."""
    with env_errors(name, f"making {len(env_fns)} of it in worker processes"):
        envs = AsyncVectorEnv(env_fns, name)
    if try_reset:
        try:
            with env_errors(name, "reset in a worker process"):
                envs.reset(seed=0)
        except RlkitError:
            close_all([envs])
            raise
    return envs


def _make_envpool(factory: EnvFactory, spec: EnvSpec, num_envs: int) -> tuple[VectorEnv[Any, Any, Any], str]:
    env = make_env(factory)
    try:
        with env_errors(factory.id, f"making {num_envs} of it by EnvPool"):
            stacked = factory.has_atari_stack(spec)
            envs = make_envpool(spec, env, num_envs, factory.kwargs, stacked=stacked, training=factory.training)
            return envs, "EnvPool's vector environment: as asked for"
    finally:
        close_all([env])


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
    before = global_state()
    with env_errors(factory.id, "step"):
        step_time = _step_time(env)
    # A step takes step_time / parallel + ASYNC_STEP_COST with worker processes, and step_time without.
    pays_from = IN_DOUBT * ASYNC_STEP_COST / (1 - 1 / parallel)
    comparison = f"a step takes {step_time * 1e3:.2g} ms; worker processes pay from {pays_from * 1e3:.2g} ms on"
    if step_time > pays_from and global_state() != before:
        # By then the data would depend on the measurement.
        return "sync", f"{comparison}, but it draws from global generators, of which every process has its own"
    if step_time > pays_from and reruns_main():
        return "sync", f"{comparison}, but {NEEDS_GUARD}"
    return ("async" if step_time > pays_from else "sync"), comparison


def _step_time(env: Env, seconds: float = 0.05, max_steps: int = 500) -> float:
    """Measures the seconds that a random step takes, including its share of resets, wherever other programs run too.

    What a step computes is CPU time. What it waits for, a simulator or a device, is the median of the remaining time:
    if other programs take the core away, they do so in few of the steps.
    """
    _, info = env.reset(seed=0)
    computing: list[float] = []
    waiting: list[float] = []
    began = wall = time.perf_counter()
    cpu = time.process_time()
    while wall - began < seconds and len(computing) < max_steps:
        _, _, terminated, truncated, info = env.step(sample_action(env.action_space, info.get("action_mask")))
        if terminated or truncated:
            _, info = env.reset()
        wall_before, cpu_before = wall, cpu
        wall, cpu = time.perf_counter(), time.process_time()
        computing.append(min(cpu - cpu_before, wall - wall_before))  # an environment's threads compute side by side
        waiting.append(wall - wall_before - computing[-1])
    return mean(computing) + median(waiting)


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
