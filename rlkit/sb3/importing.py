"""Models of Stable-Baselines3 as agents of ours: same actions, values and Q, and nothing in the files is executed."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from rlkit.agents.base import Agent
from rlkit.agents.dqn import DQN
from rlkit.agents.policy_agent import PolicyAgent
from rlkit.config import DEVICES
from rlkit.errors import RlkitError, check_choice
from rlkit.networks.features import ObsFeatures, image_shape, is_image
from rlkit.networks.normalization import Moments, RunningStatistics
from rlkit.registry import make_agent
from rlkit.runs.reading import checked_fields, damaged
from rlkit.runs.tensor_files import Header, memory_for
from rlkit.sb3.archive import Archive, read_archive
from rlkit.sb3.hyperparameters import COUNTERPARTS, Counterpart, ours
from rlkit.sb3.images import is_their_image, parts
from rlkit.sb3.pickles import Global
from rlkit.sb3.spaces import read_space
from rlkit.sb3.statistics import Normalization, read_normalization
from rlkit.sb3.tensors import Correspondence, without_copies
from rlkit.setting import ACTIVATIONS, AgentConfig, NetworkConfig, Setting, activation_key, check_compute, updated

ACTOR_CRITIC, Q_LEARNING = "stable_baselines3.common.policies", "stable_baselines3.dqn.policies"
"""SB3's modules of the policies that can be read."""
EXTRACTORS = ("FlattenExtractor", "NatureCNN", "CombinedExtractor")
"""SB3's encoders of observations."""
IGNORED = {"ortho_init", "log_std_init", "optimizer_class", "optimizer_kwargs", "share_features_extractor"}
"""Policy keywords that say how a network begins or learns, which does not change what it computes."""
READ = {"net_arch", "activation_fn", "features_extractor_class", "features_extractor_kwargs", "normalize_images"}
OFF = {"use_sde", "squash_output", "full_std", "use_expln", "clip_mean", "sde_net_arch"}
"""Policy keywords of generalised state-dependent exploration, which matter only where that is on."""


def from_sb3(
    path: str | Path, *, vec_normalize: str | Path | None = None, device: str = "auto", compute: str = "auto"
) -> Agent[Any]:
    """Makes an agent of a PPO, A2C or DQN model that Stable-Baselines3 saved; it acts and values as that does.

    `vec_normalize` is the file that VecNormalize's `save` wrote, where observations were normalised. `device` and
    `compute` are as in the configuration; "torch" computes in SB3's order, to the last bit of most numbers. Nothing in
    the files is executed: their pickles are read as plain data. Raises RlkitError for files that are missing, damaged
    or not SB3's, and for models that ours cannot be equal to.
    """
    check_choice("device", device, DEVICES)
    check_compute(compute)
    archive = read_archive(path)
    counterpart = _counterpart(archive)
    try:
        tensors = without_copies(archive.tensors)
        observation_space, action_space = _read_spaces(archive)
        normalization = None if vec_normalize is None else read_normalization(vec_normalize)
        network = _network(archive, tensors, observation_space, normalization)
        config = _config(counterpart, archive, normalization)
        with memory_for(Header(archive.file, {}, {}, archive.size, io.BytesIO())):
            setting = Setting(observation_space, action_space, network, device=device, compute=compute)
            agent = make_agent(config, setting)
        _fill(agent, archive, tensors, normalization)
    except RlkitError as error:
        if any(str(file) in str(error) for file in (archive.file, vec_normalize) if file):
            raise
        raise RlkitError(f"{archive.file}: {error}") from error
    return agent


def _counterpart(archive: Archive) -> Counterpart:
    """Finds out which agent a model is: the file says it only by its policy and by the settings that it has."""
    policy = archive.get("policy_class")
    if not isinstance(policy, Global) or policy.module not in (ACTOR_CRITIC, Q_LEARNING):
        found = ".".join(policy) if isinstance(policy, Global) else "a class of its own"
        raise RlkitError(
            f"{archive.file}: its policy is {found}: expected MlpPolicy, CnnPolicy or MultiInputPolicy of SB3's PPO, "
            "A2C or DQN, without memory"
        )
    if policy.module == Q_LEARNING:
        return COUNTERPARTS["DQN"]
    if "cg_max_steps" in archive.settings:
        raise RlkitError(f"{archive.file} is a model of TRPO: expected one of {', '.join(COUNTERPARTS)}")
    return COUNTERPARTS["PPO" if "clip_range" in archive.settings else "A2C"]


def _read_spaces(archive: Archive) -> tuple[spaces.Space[Any], spaces.Space[Any]]:
    observation_space, action_space = (
        read_space(archive.get(name), name, archive.size) for name in ("observation_space", "action_space")
    )
    for _, space in (*parts(observation_space), *parts(action_space)):
        if np.any(getattr(space, "start", 0)):
            raise RlkitError(f"the space {space} does not begin at 0: SB3 computes with it as if it did")
    return observation_space, action_space


# The network


def _network(
    archive: Archive, tensors: Mapping[str, Tensor], space: spaces.Space[Any], normalization: Normalization | None
) -> NetworkConfig:
    """Reads the network's configuration off the policy's keywords and the shapes of its tensors."""
    kwargs = _policy_kwargs(archive)
    q_learning = any(name.startswith("q_net.") for name in tensors)
    hidden = _sizes(tensors, "q_net.q_net")[:-1] if q_learning else _sizes(tensors, "mlp_extractor.policy_net")
    images = {name: tensor for name, tensor in tensors.items() if name.endswith("linear.0.bias")}
    if kwargs.get("normalize_images", True) is not True and any(is_image(part) for _, part in parts(space)):
        raise RlkitError("normalize_images=False: ours divide bytes by 255")
    plain_image = not isinstance(space, spaces.Dict) and not images and is_their_image(space)
    network = NetworkConfig(
        encoder="auto" if images or isinstance(space, spaces.Dict) else "mlp",
        cnn_features=max((len(tensor) for tensor in images.values()), default=None),
        hidden_sizes=hidden,
        critic_hidden_sizes=None if q_learning else _sizes(tensors, "mlp_extractor.value_net"),
        activation=_activation(kwargs, "relu" if q_learning else "tanh"),
        scale_obs=plain_image,
        normalize_obs=normalization is not None and normalization.obs is not None,
        amp="off",
    )
    _check_images(space, network, bool(images))
    return network


def _policy_kwargs(archive: Archive) -> Mapping[str, Any]:
    """Returns the policy's keywords; raises RlkitError for one that makes another network than ours can be."""
    kwargs = archive.get("policy_kwargs") or {}
    if not isinstance(kwargs, Mapping):
        raise damaged(archive.file, "policy_kwargs is no dict")
    if archive.get("use_sde") or kwargs.get("use_sde"):
        raise RlkitError("the policy explores by gSDE (use_sde=True), which ours cannot")
    if kwargs.get("squash_output"):
        raise RlkitError("the policy squashes its output (squash_output=True), which ours does in another way")
    extractor = kwargs.get("features_extractor_class")
    if extractor is not None and getattr(extractor, "name", None) not in EXTRACTORS:
        found = ".".join(extractor) if isinstance(extractor, Global) else "a class of its own"
        raise RlkitError(f"its features_extractor_class is {found}: expected one of {', '.join(EXTRACTORS)}")
    if unknown := sorted(map(str, set(kwargs) - IGNORED - READ - OFF)):
        raise RlkitError(f"its policy_kwargs have {', '.join(unknown)}, for which there is nothing in rlkit")
    return kwargs


def _activation(kwargs: Mapping[str, Any], default: str) -> str:
    found = kwargs.get("activation_fn")
    if found is None:
        return default
    known = {activation_key(name): name for name in ACTIVATIONS}
    of_torch = isinstance(found, Global) and found.module.startswith("torch.nn.")
    if not of_torch or activation_key(found.name) not in known:
        named = ".".join(found) if isinstance(found, Global) else "a class of its own"
        raise RlkitError(f"its activation_fn is {named}: expected one of torch's, such as Tanh or ReLU")
    return known[activation_key(found.name)]


def _sizes(tensors: Mapping[str, Tensor], prefix: str) -> list[int]:
    """Returns the outputs of each linear layer of a network, in order."""
    layers = sorted(
        int(part[0])
        for name in tensors
        if name.startswith(f"{prefix}.")
        and len(part := name.removeprefix(f"{prefix}.").split(".")) == 2
        and part[0].isdecimal()
        and part[1] == "weight"
    )
    return [len(tensors[f"{prefix}.{layer}.weight"]) for layer in layers]


def _check_images(space: spaces.Space[Any], network: NetworkConfig, has_cnn: bool) -> None:
    """Raises RlkitError unless both encode the same parts of the observation by CNNs."""
    for _, leaf in parts(space):
        theirs = has_cnn and is_their_image(leaf)
        if theirs != is_image(leaf, network.encoder) or (theirs and image_shape(leaf) != leaf.shape):
            raise RlkitError(f"{leaf} is {'an image' if theirs else 'no image'} for SB3, which encodes it unlike rlkit")


# The agent


def _config(counterpart: Counterpart, archive: Archive, normalization: Normalization | None) -> AgentConfig:
    """Returns the hyperparameters that SB3's model was trained with, where ours have them."""
    values = ours(counterpart, archive.get)
    if normalization is not None and hasattr(counterpart.config, "normalize_rewards"):
        values["normalize_rewards"] = normalization.rewards is not None
    checked = checked_fields(values, counterpart.config, f"{archive.file}: data")
    config: AgentConfig = updated(counterpart.config(), checked)
    config.validate(1)
    return config


def _fill(
    agent: Agent[Any], archive: Archive, tensors: Mapping[str, Tensor], normalization: Normalization | None
) -> None:
    """Puts SB3's tensors and statistics into an agent; raises RlkitError where there are more, fewer, or others."""
    assert isinstance(agent, PolicyAgent | DQN)
    correspondence = Correspondence(agent.network, agent.observation_space)
    state, expected = agent.network.state_dict(), correspondence.theirs(agent.network.state_dict())
    for name in sorted({*expected, *tensors}):
        have, want = (tuple(each[name].shape) if name in each else "missing" for each in (tensors, expected))
        if have != want:
            raise RlkitError(f"the policy's tensor {name!a} is {have} where {want} is due: it is of another network")
        if not bool(tensors[name].isfinite().all()):
            raise damaged(archive.file, f"{name!a} holds numbers that are not finite")
    agent.network.load_state_dict({**state, **correspondence.ours(tensors)})
    statistics = agent.network.features.statistics
    if statistics is not None and normalization is not None:
        assert isinstance(agent.network.features, ObsFeatures)
        _set(statistics, normalization.moments(agent.observation_space, agent.network.features))
    if isinstance(agent, PolicyAgent) and agent.policy.rewards is not None and normalization and normalization.rewards:
        _set(agent.policy.rewards.statistics, normalization.rewards)
    if isinstance(agent, DQN) and isinstance(rate := archive.get("exploration_rate"), float) and 0 <= rate <= 1:
        agent.model.get_buffer("epsilon").fill_(rate)


def _set(statistics: RunningStatistics, moments: Moments) -> None:
    statistics.mean.copy_(torch.from_numpy(np.atleast_1d(moments.mean)))
    statistics.var.copy_(torch.from_numpy(np.atleast_1d(moments.var)))
    statistics.count.fill_(moments.count)
