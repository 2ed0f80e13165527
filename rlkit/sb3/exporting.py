"""Agents of ours as models of Stable-Baselines3, which act and value as they do."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, NoReturn

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from rlkit.agents.base import Agent
from rlkit.agents.dqn import DQN
from rlkit.agents.policy_agent import PolicyAgent
from rlkit.errors import RlkitError, told
from rlkit.networks.encoders import LARGE_IMAGE, ImageEncoders
from rlkit.networks.features import ObsFeatures, image_shape
from rlkit.networks.mlp import activation
from rlkit.networks.normalization import RunningStatistics
from rlkit.networks.q_network import QNetwork
from rlkit.sb3.hyperparameters import COUNTERPARTS, theirs
from rlkit.sb3.images import is_their_image, parts
from rlkit.sb3.tensors import Correspondence, original
from rlkit.spaces import Array

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.vec_env import VecEnv, VecNormalize


class SpacesOnly(gym.Env[Any, Any]):
    """An environment that has spaces and cannot be played: SB3 makes no model without one."""

    def __init__(self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> None:
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> NoReturn:
        raise RlkitError("this model has no environment that can be played: to_sb3(agent, env=…) takes one")

    def step(self, action: Any) -> NoReturn:
        self.reset()


def to_sb3(agent: Agent[Any], env: Any = None, *, device: str = "cpu") -> BaseAlgorithm:
    """Makes a PPO, A2C or DQN model of Stable-Baselines3 of an agent, which `model.save(path)` writes.

    `env` is what SB3 takes, for training on; without one the model can act, but not learn. Of an agent that normalises
    observations, `model.get_vec_normalize_env()` does so, and its `save` writes the statistics. Raises RlkitError for
    agents and networks that SB3 does not have.
    """
    import stable_baselines3

    name = next((name for name, each in COUNTERPARTS.items() if each.config is type(agent.config)), None)
    if name is None or not isinstance(agent, PolicyAgent | DQN):
        known = ", ".join(COUNTERPARTS)
        raise RlkitError(f"agent={agent.config.name} has no counterpart at SB3: expected one of {known}")
    _check(agent)
    vec_env = _vec_env(agent, env)
    arguments = theirs(COUNTERPARTS[name], agent.config, vec_env.num_envs)
    kwargs = _policy_kwargs(agent)
    try:
        with warnings.catch_warnings():
            if env is None:  # of minibatches and buffers, which do not matter to a model that only acts
                warnings.simplefilter("ignore", UserWarning)
            kind = getattr(stable_baselines3, name)
            model: BaseAlgorithm = kind(_policy(agent), vec_env, policy_kwargs=kwargs, device=device, **arguments)
    except (AssertionError, NotImplementedError, TypeError, ValueError) as error:
        raise RlkitError(f"SB3 makes no {name} for this agent: {told(error)}") from error
    _fill(model, agent)
    return model


def _check(agent: PolicyAgent[Any] | DQN) -> None:
    """Raises RlkitError for a network or an observation that SB3 has no name for."""
    network, config = agent.network_config, agent.config
    default = {"backbone": None, "module": None, "layer_norm": False, "squash": False, "state_dependent_std": False}
    found = {f"network.{name}": (getattr(network, name), value) for name, value in default.items()}
    found |= {f"agent.{name}": (getattr(config, name, False), False) for name in ("dueling", "noisy", "distributional")}
    for name, (value, needed) in found.items():
        if value != needed:
            raise RlkitError(f"{name}={value} is nothing that SB3 has: expected {name}={needed}")
    features = _features(agent)
    leaves = parts(agent.observation_space)
    for i, (key, leaf) in enumerate(leaves):
        if isinstance(leaf, spaces.Dict | spaces.Tuple):
            raise RlkitError(f"SB3 takes no space within a space: {key or 'the observation'} is {leaf}")
        large = network.encoder != "minatar" and is_their_image(leaf) and min(image_shape(leaf)[1:]) >= LARGE_IMAGE
        if i in features.images and not large:
            raise RlkitError(f"{leaf} goes through a CNN that SB3 does not have: expected bytes, from 36x36 pixels on")
        if len(leaves) > 1 and i not in features.images and is_their_image(leaf):
            raise RlkitError(f"{leaf} goes through a CNN at SB3: expected network.encoder=auto")


def _policy(agent: PolicyAgent[Any] | DQN) -> str:
    if isinstance(agent.observation_space, spaces.Dict):
        return "MultiInputPolicy"
    return "CnnPolicy" if _features(agent).images else "MlpPolicy"


def _features(agent: PolicyAgent[Any] | DQN) -> ObsFeatures:
    features = agent.network.features
    assert isinstance(features, ObsFeatures)  # those of a network of the user's own were refused
    return features


def _policy_kwargs(agent: PolicyAgent[Any] | DQN) -> dict[str, Any]:
    """Returns SB3's words for the network."""
    network = agent.network
    kwargs: dict[str, Any] = {"activation_fn": type(activation(agent.network_config.activation))}
    if isinstance(network, QNetwork):
        kwargs["net_arch"] = _hidden(network.body)
    else:
        kwargs["net_arch"] = {"pi": _hidden(network.actor), "vf": _hidden(network.critic)}
    if _features(agent).images:
        in_dict = isinstance(agent.observation_space, spaces.Dict)
        name = "cnn_output_dim" if in_dict else "features_dim"
        assert isinstance(network.cnns, ImageEncoders)
        size = network.cnns.num_outputs - _features(agent).vector_size
        kwargs["features_extractor_kwargs"] = {name: size // len(network.cnns)}
    return kwargs


def _hidden(layers: torch.nn.Sequential) -> list[int]:
    return [layer.out_features for layer in layers if isinstance(layer, torch.nn.Linear)][:-1]


# The environment


def _vec_env(agent: PolicyAgent[Any] | DQN, env: Any) -> VecEnv:
    """Makes SB3's vector environment, with the agent's statistics where it has some."""
    from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

    made = SpacesOnly(agent.observation_space, agent.action_space) if env is None else env
    made = gym.make(made) if isinstance(made, str) else made
    vec_env = made if isinstance(made, VecEnv) else DummyVecEnv([lambda: made])
    for name in ("observation_space", "action_space"):
        if getattr(vec_env, name) != getattr(agent, name):
            raise RlkitError(f"env has the {name} {getattr(vec_env, name)}: the agent's is {getattr(agent, name)}")
    return _normalized(agent, vec_env)


def _normalized(agent: PolicyAgent[Any] | DQN, env: VecEnv) -> VecEnv:
    from stable_baselines3.common.vec_env import VecNormalize

    features = _features(agent)
    rewards = agent.policy.rewards if isinstance(agent, PolicyAgent) else None
    boxes = {
        key: features.leaves[i]
        for i, (key, _) in enumerate(parts(agent.observation_space))
        if i in features.vectors and isinstance(features.leaves[i], spaces.Box)
    }
    norm_obs = features.statistics is not None and bool(boxes)
    if not norm_obs and rewards is None:
        return env
    in_dict = isinstance(agent.observation_space, spaces.Dict)
    gamma = rewards.gamma if rewards else 0.99
    keys = list(boxes) if in_dict and norm_obs else None
    normalized = VecNormalize(env, norm_obs=norm_obs, norm_reward=rewards is not None, gamma=gamma, norm_obs_keys=keys)
    if norm_obs:
        _set_obs(normalized, features, in_dict=in_dict)
    if rewards is not None:
        mean, var = (getattr(rewards.statistics, name).numpy().reshape(()) for name in ("mean", "var"))
        _set(normalized.ret_rms, rewards.statistics, mean, var)
    return normalized


def _set_obs(normalized: VecNormalize, features: ObsFeatures, *, in_dict: bool) -> None:
    """Puts the moments of the network's input vector where SB3 has them, part by part."""
    statistics, start = features.statistics, 0
    assert statistics is not None
    mean, var = statistics.mean.numpy(), statistics.var.numpy()
    keys = [key for key, _ in parts(normalized.observation_space)]
    for i in features.vectors:
        leaf, end = features.leaves[i], start + spaces.flatdim(features.leaves[i])
        if isinstance(leaf, spaces.Box):
            part = normalized.obs_rms[keys[i]] if in_dict else normalized.obs_rms
            _set(part, statistics, mean[start:end].reshape(leaf.shape), var[start:end].reshape(leaf.shape))
        start = end


def _set(theirs: Any, statistics: RunningStatistics, mean: Array, var: Array) -> None:
    theirs.mean, theirs.var, theirs.count = mean.copy(), var.copy(), statistics.count.item()


# The tensors


def _fill(model: BaseAlgorithm, agent: PolicyAgent[Any] | DQN) -> None:
    """Puts an agent's tensors into a model."""
    ours = {name: tensor.detach().cpu().clone() for name, tensor in agent.network.state_dict().items()}
    _unscale(ours, agent)
    tensors = Correspondence(agent.network, agent.observation_space).theirs(ours)
    state = model.policy.state_dict()
    filled = {name: tensors.get(original(name)) for name in state}
    for name, tensor in filled.items():
        found = "missing" if tensor is None else tuple(tensor.shape)
        if found != tuple(state[name].shape):
            raise RlkitError(f"SB3's network is another one: its {name} is {tuple(state[name].shape)}, ours {found}")
    model.policy.load_state_dict(filled)
    if isinstance(agent, DQN):
        model.exploration_rate = agent.epsilon  # type: ignore[attr-defined]


def _unscale(tensors: dict[str, Tensor], agent: PolicyAgent[Any] | DQN) -> None:
    """Lets the first layers scale vectors by their bounds, which SB3 does not: W (x - o) / s + b = W' x + b'."""
    features, start = _features(agent), 0
    for i in features.vectors:
        leaf = features.leaves[i]
        columns, start = slice(start, start + spaces.flatdim(leaf)), start + spaces.flatdim(leaf)
        scaling = features.scalings.get(i)
        if scaling is None or is_their_image(leaf):  # of which SB3 divides the bytes by 255 itself
            continue
        offset, scale = (torch.from_numpy(np.broadcast_to(each, spaces.flatdim(leaf)).copy()) for each in scaling)
        for layer in ("actor.0", "critic.0", "body.0"):
            if f"{layer}.weight" in tensors:
                weight = tensors[f"{layer}.weight"].double()
                weight[:, columns] /= scale
                tensors[f"{layer}.bias"] = (tensors[f"{layer}.bias"] - weight[:, columns] @ offset.double()).float()
                tensors[f"{layer}.weight"] = weight.float()
