"""Arguments of SB3's constructors as configurations of ours; what cannot be done is refused with the reason."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from gymnasium import spaces

from rlkit.errors import RlkitError, shown, unknown
from rlkit.networks.features import is_image
from rlkit.sb3.hyperparameters import Counterpart, ours
from rlkit.sb3.images import is_their_image, parts
from rlkit.sb3.pickles import Global
from rlkit.setting import ACTIVATIONS, AgentConfig, NetworkConfig, activation_key, updated

POLICIES = ("MlpPolicy", "CnnPolicy", "MultiInputPolicy")
CLASSES = {
    "ActorCriticPolicy": "MlpPolicy",
    "ActorCriticCnnPolicy": "CnnPolicy",
    "MultiInputActorCriticPolicy": "MultiInputPolicy",
    "DQNPolicy": "MlpPolicy",
}
"""Names of SB3's classes that are no names of policies."""
REFUSED: Mapping[str, tuple[Any, str]] = {
    "use_sde": (False, "there is no generalised state-dependent exploration"),
    "rollout_buffer_class": (None, "buffers are rlkit's"),
    "rollout_buffer_kwargs": (None, "buffers are rlkit's"),
    "replay_buffer_class": (None, "buffers are rlkit's"),
    "replay_buffer_kwargs": (None, "buffers are rlkit's"),
}
"""Arguments that only work at their default or as None, and why."""
KWARGS = {"net_arch", "activation_fn", "features_extractor_kwargs", "log_std_init", "ortho_init", "optimizer_kwargs"}
"""Policy keywords that have a counterpart."""
SCHEDULED = ("learning_rate", "clip_range", "clip_range_vf")
"""Arguments that may be functions of the share of the run that is left."""


def schedules(arguments: Mapping[str, Any]) -> dict[str, Callable[[float], float]]:
    """Returns the arguments that are functions, by name; a number is no schedule."""
    return {name: arguments[name] for name in SCHEDULED if callable(arguments.get(name))}


def agent_config(counterpart: Counterpart, arguments: Mapping[str, Any], num_envs: int) -> AgentConfig:
    """Makes our hyperparameters of SB3's arguments; schedules begin where the run does.

    Raises RlkitError for what cannot be done.
    """
    for name, (default, reason) in REFUSED.items():
        if arguments.get(name) not in (default, None, {}):
            raise RlkitError(f"{name}={shown(arguments[name])}: {reason}; expected {default}")
    freq = arguments.get("train_freq")
    if isinstance(freq, tuple | list) and (len(freq) != 2 or freq[1] not in ("step", "episode")):
        raise RlkitError(f'train_freq={freq}: expected a number of steps, or a pair like (1, "episode")')
    if isinstance(freq, tuple | list) and freq[1] == "episode" and freq[0] != 1:
        raise RlkitError(f'train_freq={freq}: after episodes, learning follows each one; expected (1, "episode")')
    settings = dict(arguments) | {name: each(1.0) for name, each in schedules(arguments).items()}
    kwargs = dict(arguments.get("policy_kwargs") or {})
    if arguments.get("use_rms_prop"):
        kwargs.setdefault("optimizer_kwargs", {"eps": arguments["rms_prop_eps"]})
        kwargs["optimizer_class"] = Global("stable_baselines3", "RMSpropTFLike")
    settings |= {"n_envs": num_envs, "policy_kwargs": kwargs}
    config: AgentConfig = updated(counterpart.config(), ours(counterpart, settings.get))
    config.validate(num_envs)
    return config


def network_config(
    policy: Any, policy_kwargs: Mapping[str, Any], space: spaces.Space[Any], *, q_learning: bool
) -> NetworkConfig:
    """Makes our network of SB3's policy and its keywords; raises RlkitError for what cannot be done."""
    name = policy_name(policy, space)
    if more := sorted(set(policy_kwargs) - KWARGS):
        raise unknown("policy_kwargs that rlkit can take", more[0], KWARGS)
    if policy_kwargs.get("ortho_init", True) is not True:
        raise RlkitError("policy_kwargs: ortho_init=False begins with torch's own weights, which rlkit has not")
    if extra := set(policy_kwargs.get("optimizer_kwargs") or {}) - {"eps"}:
        raise RlkitError(f"policy_kwargs: optimizer_kwargs has {sorted(extra)}: expected eps alone")
    cnn = name == "CnnPolicy" or (name == "MultiInputPolicy" and any(is_their_image(leaf) for _, leaf in parts(space)))
    actor, critic = hidden_sizes(policy_kwargs.get("net_arch"), name, q_learning=q_learning)
    encoder = policy_kwargs.get("features_extractor_kwargs") or {}
    size = encoder.get("features_dim", encoder.get("cnn_output_dim", 256 if name == "MultiInputPolicy" else 512))
    if more := sorted(set(encoder) - {"features_dim", "cnn_output_dim"}):
        raise RlkitError(f"policy_kwargs: features_extractor_kwargs has {more}: expected features_dim alone")
    network = NetworkConfig(
        encoder="mlp" if name == "MlpPolicy" else "auto",
        cnn_features=size if cnn else None,
        hidden_sizes=actor,
        critic_hidden_sizes=None if q_learning else critic,
        activation=_activation(policy_kwargs.get("activation_fn"), "relu" if q_learning else "tanh"),
        scale_obs=name == "MlpPolicy" and is_their_image(space),
        log_std_init=float(policy_kwargs.get("log_std_init", 0.0)),
    )
    for key, leaf in parts(space):
        if is_image(leaf, network.encoder) and not is_their_image(leaf):
            raise RlkitError(f"{key or 'the observation'} {leaf} is an image for rlkit and none for SB3")
    network.validate()
    return network


def policy_name(policy: Any, space: spaces.Space[Any]) -> str:
    """Returns the name of a policy, given by name or as SB3's class; raises RlkitError where it cannot be."""
    if isinstance(policy, type) and policy.__module__.startswith("stable_baselines3."):
        policy = CLASSES.get(policy.__name__, policy.__name__)
    if not isinstance(policy, str) or policy not in POLICIES:
        raise unknown("policy", getattr(policy, "__name__", policy), POLICIES)
    if (policy == "MultiInputPolicy") != isinstance(space, spaces.Dict):
        right = "`MultiInputPolicy`" if isinstance(space, spaces.Dict) else "`MlpPolicy` or `CnnPolicy`"
        raise RlkitError(f"{policy} is not for {space}: you must use {right}")
    if policy == "CnnPolicy" and not is_their_image(space):
        raise RlkitError(f"CnnPolicy is for images of bytes, (channels, height, width), and not for {space}")
    return policy


def hidden_sizes(net_arch: Any, policy: str, *, q_learning: bool) -> tuple[list[int], list[int]]:
    """Returns the layers of policy and critic that `net_arch` says; raises RlkitError for other forms of it."""
    if net_arch is None:
        net_arch = [] if policy == "CnnPolicy" else [64, 64]
    if isinstance(net_arch, list) and len(net_arch) == 1 and isinstance(net_arch[0], dict):
        net_arch = net_arch[0]  # the form of SB3's first versions
    if isinstance(net_arch, dict) and not q_learning and set(net_arch) <= {"pi", "vf"}:
        both = net_arch.get("pi", []), net_arch.get("vf", [])
    elif isinstance(net_arch, list):
        both = net_arch, net_arch
    else:
        both = [None], []
    if not all(type(size) is int for sizes in both for size in sizes):
        raise RlkitError(f"policy_kwargs: net_arch={net_arch}: expected a list of sizes, or one each for pi and vf")
    return list(both[0]), list(both[1])


def _activation(kind: Any, default: str) -> str:
    if kind is None:
        return default
    known = {activation_key(name): name for name in ACTIVATIONS}
    name = activation_key(getattr(kind, "__name__", ""))
    if not (isinstance(kind, type) and issubclass(kind, torch.nn.Module) and name in known):
        raise RlkitError(f"policy_kwargs: activation_fn={shown(kind)}: expected one of torch.nn's, such as nn.ReLU")
    return known[name]
