"""Hyperparameters of SB3's agents as ours, and ours as theirs: one table for each agent."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from rlkit.agents.a2c import A2CConfig
from rlkit.agents.dqn import DQNConfig
from rlkit.agents.ppo import PPOConfig
from rlkit.sb3.pickles import Global, Unmade
from rlkit.setting import AgentConfig

Get = Callable[[str], Any]
"""Returns a setting of a model of SB3's by its name, None where it has none."""

ON_POLICY: Mapping[str, str] = {
    **{name: name for name in ("learning_rate", "gamma", "gae_lambda", "ent_coef", "vf_coef", "max_grad_norm")},
    "n_steps": "num_steps",
    "normalize_advantage": "normalize_advantages",
}


class Counterpart(NamedTuple):
    """An agent of ours and the one of SB3's that it is the counterpart of."""

    config: type[AgentConfig]
    names: Mapping[str, str]
    """SB3's names, and our fields that mean the same; dots lead into groups."""
    fixed: Mapping[str, Any]
    """Our fields that SB3 has no name for, with the values that do what it does."""
    more: Callable[[Get], dict[str, Any]]
    """Computes the fields that depend on several settings."""
    more_theirs: Callable[[Any, int], dict[str, Any]]
    """Computes SB3's arguments of several fields of our config, for a number of environments."""


@dataclass(frozen=True)
class Falling:
    """A schedule as SB3 takes it: from a value to zero over the run."""

    start: float

    def __call__(self, remaining: float) -> float:
        """Returns the value when the share `remaining` of the run is left."""
        return self.start * remaining


def ours(counterpart: Counterpart, get: Get) -> dict[str, Any]:
    """Returns our fields, nested, of the settings of a model of SB3's.

    Settings that are functions, and those that a version did not have, are left out.
    """
    fields: dict[str, Any] = {}
    for name, value in counterpart.fixed.items():
        put(fields, name, value)
    for theirs, name in counterpart.names.items():
        value = plain(get(theirs))
        if value is not None:
            put(fields, name, value)
    for name, value in counterpart.more(get).items():
        put(fields, name, value)
    return fields


def theirs(counterpart: Counterpart, config: AgentConfig, num_envs: int) -> dict[str, Any]:
    """Returns the arguments of SB3's constructor that say what a config of ours does."""
    arguments: dict[str, Any] = {}
    for name, field in counterpart.names.items():
        value: Any = config
        for part in field.split("."):
            value = getattr(value, part)
        if getattr(config, f"{field}_schedule", "constant") == "linear":
            value = Falling(value)
        arguments[name] = math.inf if value is None and name == "max_grad_norm" else value
    return arguments | counterpart.more_theirs(config, num_envs)


def plain(value: Any) -> Any:
    """Returns the number that a setting is, out of the schedules in which SB3 keeps constants; None if it is none."""
    while isinstance(value, Unmade) and value.maker.name in ("FloatSchedule", "ConstantSchedule"):
        value = value.get("value_schedule") if value.maker.name == "FloatSchedule" else value.get("val")
    return value if isinstance(value, bool | int | float) else None


def put(fields: dict[str, Any], name: str, value: Any) -> None:
    """Puts a value at a dotted name into nested dicts."""
    *groups, last = name.split(".")
    for group in groups:
        fields = fields.setdefault(group, {})
    fields[last] = value


# PPO and A2C


def _no_limit(get: Get) -> dict[str, Any]:
    """Limits of the gradient's norm that are infinite, which are null at ours."""
    limit = plain(get("max_grad_norm"))
    return {"max_grad_norm": None} if limit is not None and math.isinf(limit) else {}


def _adam(get: Get) -> dict[str, Any]:
    epsilon = plain(_policy_kwarg(get, "optimizer_kwargs", {}).get("eps"))
    return _no_limit(get) | ({} if epsilon is None else {"adam_eps": epsilon})


def _rmsprop(get: Get) -> dict[str, Any]:
    """A2C's optimiser; that of TensorFlow's kind adds its ε below the root, ours and torch's to it."""
    kind = _policy_kwarg(get, "optimizer_class", None)
    name = kind.name if isinstance(kind, Global) else "Adam"
    epsilon = plain(_policy_kwarg(get, "optimizer_kwargs", {}).get("eps"))
    epsilon = 1e-5 if epsilon is None else epsilon
    of_tensorflow = name == "RMSpropTFLike"
    fields = {
        "optimizer": "rmsprop" if name.startswith("RMSprop") else "adam",
        "optimizer_eps": math.sqrt(epsilon) if of_tensorflow else epsilon,
    }
    return _no_limit(get) | fields


def _policy_kwarg(get: Get, name: str, default: Any) -> Any:
    kwargs = get("policy_kwargs")
    value = kwargs.get(name, default) if isinstance(kwargs, Mapping) else default
    return value if default is None or isinstance(value, Mapping) else default


# DQN


def _updates(get: Get) -> dict[str, Any]:
    """Fields for when DQN learns, and when its target network follows, which ours counts in gradient steps."""
    steps, unit = _train_freq(get("train_freq"))
    num_envs = plain(get("n_envs")) or 1
    gradient_steps = plain(get("gradient_steps")) or 1
    if gradient_steps < 0:  # as many as there were steps
        gradient_steps = steps * num_envs
    fields = {**_no_limit(get), "gradient_steps": gradient_steps, "num_steps": steps}
    if unit == "episode":
        fields |= {"num_steps": 1, "gradient_steps_per": "episode"}
    if interval := plain(get("target_update_interval")):
        fields["target.interval"] = max(1, round(interval * gradient_steps / (steps * num_envs)))
    starts, size = plain(get("learning_starts")), plain(get("buffer_size"))
    if starts is not None:
        fields["learning_starts"] = max(1, starts if size is None else min(starts, size))
    return fields


def _train_freq(value: Any) -> tuple[int, str]:
    """Returns the number and the unit of SB3's `train_freq`, a number of steps or a pair."""
    parts = value.arguments if isinstance(value, Unmade) else value
    if not isinstance(parts, tuple | list) or len(parts) != 2:
        return plain(parts) or 1, "step"
    unit = parts[1].arguments[0] if isinstance(parts[1], Unmade) else getattr(parts[1], "value", parts[1])
    return plain(parts[0]) or 1, str(unit)


def _updates_theirs(config: DQNConfig, num_envs: int) -> dict[str, Any]:
    episodes = config.gradient_steps_per == "episode"
    steps = config.target.interval * config.num_steps * num_envs / config.gradient_steps
    return {
        "train_freq": (1, "episode") if episodes else config.num_steps,
        "gradient_steps": config.gradient_steps,
        "target_update_interval": max(1, round(steps)),
        "exploration_initial_eps": 1.0 if config.epsilon.start is None else config.epsilon.start,
    }


COUNTERPARTS: Mapping[str, Counterpart] = {
    "PPO": Counterpart(
        PPOConfig,
        {
            **ON_POLICY,
            "batch_size": "minibatch_size",
            "n_epochs": "num_epochs",
            "clip_range": "clip_coef",
            "clip_range_vf": "clip_value_coef",
            "target_kl": "target_kl",
        },
        {"learning_rate_schedule": "constant", "clip_coef_schedule": "constant"},
        _adam,
        # A rollout that is smaller than a minibatch is one minibatch for ours, and a mistake for SB3.
        lambda config, num_envs: {"batch_size": min(config.minibatch_size, config.num_steps * num_envs)},
    ),
    "A2C": Counterpart(
        A2CConfig, ON_POLICY, {"learning_rate_schedule": "constant"}, _rmsprop, lambda config, num_envs: {}
    ),
    "DQN": Counterpart(
        DQNConfig,
        {
            **{name: name for name in ("learning_rate", "gamma", "max_grad_norm", "learning_starts")},
            "buffer_size": "replay.size",
            "batch_size": "minibatch_size",
            "tau": "target.tau",
            "exploration_initial_eps": "epsilon.start",
            "exploration_final_eps": "epsilon.end",
            "exploration_fraction": "epsilon.fraction",
            "n_steps": "n_step",
        },
        {"learning_rate_schedule": "constant"},
        _updates,
        _updates_theirs,
    ),
}
"""The agents that both have, by the names of SB3's classes."""
