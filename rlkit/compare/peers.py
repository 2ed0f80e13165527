"""Agents of other libraries, and the table that says in their words what a configuration of ours asks for.

`FIELDS` has a row for every field of PPO, A2C, DQN and TRPO and of the network. A row either names the argument that
stands for the field, or says what the peer does in its place; a field that is set to something else is then told as a
difference, in the terminal and in the report.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from rlkit.config import TrainConfig
from rlkit.errors import RlkitError, nearest
from rlkit.setting import activation_key


class Peer(NamedTuple):
    """An agent of another library, and the agent of ours that is its counterpart."""

    name: str
    """The choice of `peers=` that it belongs to."""
    ours: str
    """The name of our agent's config."""
    path: str
    """Its class, `module:Class`."""
    package: str
    """The distribution to install."""
    differs: str = ""
    """A sentence about a difference that no field makes."""

    @property
    def label(self) -> str:
        """The library and the class, for people."""
        return f"{self.package_label} {self.path.partition(':')[2]}"

    @property
    def package_label(self) -> str:
        """The library's usual short name."""
        return {"stable-baselines3": "SB3"}.get(self.package, self.package)

    @property
    def installed(self) -> bool:
        """True if the library can be imported."""
        return importlib.util.find_spec(self.path.partition(":")[0]) is not None

    def find(self) -> Any:
        """Returns the class."""
        module, _, name = self.path.partition(":")
        return getattr(importlib.import_module(module), name)


class PeerTask(NamedTuple):
    """A run of a peer's agent: the run of ours that it is the counterpart of, and its hyperparameters."""

    peer: Peer
    config: TrainConfig
    """Configuration of the counterpart."""
    same: bool
    """Map our hyperparameters and network; otherwise the peer has its own defaults."""
    more: Mapping[str, Any]
    """Arguments of its constructor that win over both."""


DQN_ACTS = "acts at random for learning_starts steps before it follows ε; ours follows ε from the first step on"
PEERS = (
    Peer("sb3", "ppo", "stable_baselines3:PPO", "stable-baselines3"),
    Peer("sb3", "a2c", "stable_baselines3:A2C", "stable-baselines3"),
    Peer("sb3", "dqn", "stable_baselines3:DQN", "stable-baselines3", DQN_ACTS),
    Peer("sb3-contrib", "trpo", "sb3_contrib:TRPO", "sb3-contrib"),
    Peer("qrdqn", "dqn", "sb3_contrib:QRDQN", "sb3-contrib", f"{DQN_ACTS}; it learns quantiles"),
    Peer("recurrent-ppo", "ppo", "sb3_contrib:RecurrentPPO", "sb3-contrib", "has an LSTM in its policy"),
)
"""Every agent that ours can be compared with."""


def peer_names() -> list[str]:
    """Every choice of `peers=`."""
    return list(dict.fromkeys(peer.name for peer in PEERS))


def find_peer(name: str, ours: str) -> Peer:
    """Finds the counterpart of one of our agents; raises RlkitError if there is none, or its library is missing."""
    for peer in PEERS:
        if (peer.name, peer.ours) == (name, ours):
            if not peer.installed:
                raise RlkitError(f"peers=[{name}] needs the package {peer.package}: pip install {peer.package}")
            return peer
    others = sorted({f"peers=[{peer.name}]" for peer in PEERS if peer.ours == ours})
    able = sorted({peer.ours for peer in PEERS if peer.name == name})
    instead = f"expected {' or '.join(others)}" if others else f"expected one of {', '.join(able)}"
    raise RlkitError(
        f"agent={ours} has no counterpart in peers=[{name}]: {instead}, or peers=[] to compare rlkit's agents with "
        "each other"
    )


@dataclass(frozen=True)
class Linear:
    """A schedule as SB3 takes it: from a value to zero over the run."""

    start: float

    def __call__(self, remaining: float) -> float:
        """Returns the value when the share `remaining` of the run is left."""
        return self.start * remaining

    def __str__(self) -> str:
        return f"{self.start} falling linearly to 0"


class Mapped(NamedTuple):
    """Fields of ours for which a peer has an argument."""

    ours: tuple[str, ...]
    theirs: str
    """Its name; dots lead into a dict. Names in braces are what is done instead of an argument."""
    value: Callable[[TrainConfig], Any] | None = None
    """Computes the argument; None: it is the first field's value."""
    note: Callable[[TrainConfig], str] = lambda config: ""
    """Says what is different all the same, where something is."""


class Fixed(NamedTuple):
    """Fields of ours for which a peer has no argument."""

    ours: tuple[str, ...]
    equal: Any
    """The value of the first field with which both do the same; the others matter only with another one."""
    theirs: str
    """A few words, behind the peer's name, that say what it does whatever the field is."""


Row = Mapped | Fixed


def _scheduled(name: str) -> Callable[[TrainConfig], Any]:
    """Makes a function that returns a field of the agent as SB3 takes it with its schedule."""

    def value(config: TrainConfig) -> Any:
        start = getattr(config.agent, name)
        return Linear(start) if getattr(config.agent, f"{name}_schedule") == "linear" else start

    return value


def _limit(config: TrainConfig) -> float:
    """The largest norm of gradients, for which SB3 has no null."""
    limit: float | None = config.agent.max_grad_norm
    return math.inf if limit is None else limit


def _minibatch(config: TrainConfig) -> int:
    """The size of minibatches; of a rollout that is smaller, ours is the rollout."""
    return min(int(config.agent.minibatch_size), int(config.agent.num_steps) * config.num_envs)


def _target_interval(config: TrainConfig) -> int:
    """Environment steps between updates of the target network, which ours counts in gradient steps."""
    agent = config.agent
    interval: int = round(agent.target.interval * agent.num_steps * config.num_envs / agent.gradient_steps)
    return max(1, interval)


def _target_note(config: TrainConfig) -> str:
    exact = config.agent.target.interval * config.agent.num_steps * config.num_envs / config.agent.gradient_steps
    if exact == _target_interval(config) and exact >= config.num_envs:
        return ""
    return f"the target network follows every {max(_target_interval(config), config.num_envs)} steps, ours {exact:g}"


def _net_arch(config: TrainConfig) -> Any:
    """Sizes of the hidden layers of policy and critic; None for the defaults."""
    hidden, critic = config.network.hidden_sizes, config.network.critic_hidden_sizes
    if hidden is None and critic is None:
        return None
    policy = [64, 64] if hidden is None else hidden
    return {"pi": policy, "vf": policy if critic is None else critic}


def _activation(config: TrainConfig) -> Any:
    """The class of the activation between layers."""
    from torch import nn

    by_key = {activation_key(name): getattr(nn, name) for name in dir(nn.modules.activation) if hasattr(nn, name)}
    return by_key[activation_key(config.network.activation)]


NETWORK: tuple[Row, ...] = (
    Mapped(("network.activation",), "policy_kwargs.activation_fn", _activation),
    Mapped(("network.normalize_obs",), "{VecNormalize}"),
    Fixed(("network.backbone", "network.freeze_backbone"), None, "has no backbones"),
    Fixed(("network.module", "network.module_args"), None, "has its own encoder"),
    Fixed(("network.encoder",), "auto", "chooses its encoder by the observations"),
    Fixed(("network.cnn_features",), None, "makes 512 features of an image, or 256 beside other parts"),
    Fixed(("network.layer_norm",), False, "has no layer normalisation"),
    Fixed(("network.scale_obs",), True, "scales bytes of images alone"),  # what else we scale depends on the space
    Fixed(("network.amp",), "auto", "computes in float32"),
)
POLICY: tuple[Row, ...] = (
    *NETWORK,
    Mapped(("network.hidden_sizes", "network.critic_hidden_sizes"), "policy_kwargs.net_arch", _net_arch),
    Mapped(("network.log_std_init",), "policy_kwargs.log_std_init"),
    Fixed(("network.initialization",), "orthogonal", "begins with orthogonal weights"),
    Fixed(("network.squash",), False, "clips actions to their bounds"),
    Fixed(("network.state_dependent_std",), False, "learns one standard deviation for all states"),
    Mapped(("agent.gamma",), "gamma"),
    Mapped(("agent.gae_lambda",), "gae_lambda"),
    Mapped(("agent.num_steps",), "n_steps"),
    Mapped(("agent.learning_rate", "agent.learning_rate_schedule"), "learning_rate", _scheduled("learning_rate")),
    Mapped(("agent.normalize_advantages",), "normalize_advantage"),
    Mapped(("agent.normalize_rewards",), "{VecNormalize}"),
)
FIELDS: Mapping[str, tuple[Row, ...]] = {
    "ppo": (
        *POLICY,
        Fixed(("agent.objective", "agent.kl_coef", "agent.kl_target"), "clip", "has the clipped objective alone"),
        Fixed(("agent.critic_learning_rate",), None, "has one learning rate"),
        Fixed(("agent.noise_correlation",), 0.0, "explores with white noise"),
        Mapped(("agent.minibatch_size",), "batch_size", _minibatch),
        Mapped(("agent.num_epochs",), "n_epochs"),
        Mapped(("agent.clip_coef", "agent.clip_coef_schedule"), "clip_range", _scheduled("clip_coef")),
        Mapped(("agent.clip_value_coef",), "clip_range_vf"),
        Mapped(("agent.target_kl",), "target_kl"),
        Mapped(("agent.ent_coef",), "ent_coef"),
        Mapped(("agent.vf_coef",), "vf_coef"),
        Mapped(("agent.max_grad_norm",), "max_grad_norm", _limit),
        Mapped(("agent.adam_eps",), "policy_kwargs.optimizer_kwargs.eps"),
    ),
    "a2c": (
        *POLICY,
        Mapped(("agent.ent_coef",), "ent_coef"),
        Mapped(("agent.vf_coef",), "vf_coef"),
        Mapped(("agent.max_grad_norm",), "max_grad_norm", _limit),
        Mapped(("agent.optimizer",), "use_rms_prop", lambda config: config.agent.optimizer == "rmsprop"),
        Mapped(("agent.optimizer_eps",), "rms_prop_eps"),
    ),
    "trpo": (
        *POLICY,
        Mapped(("agent.target_kl",), "target_kl"),
        Mapped(("agent.cg_iterations",), "cg_max_steps"),
        Mapped(("agent.cg_damping",), "cg_damping"),
        Mapped(("agent.line_search_steps",), "line_search_max_iter"),
        Mapped(("agent.line_search_shrink",), "line_search_shrinking_factor"),
        Mapped(("agent.critic_epochs",), "n_critic_updates"),
        Mapped(("agent.minibatch_size",), "batch_size", _minibatch),
    ),
    "dqn": (
        *NETWORK,
        Mapped(("network.hidden_sizes", "network.critic_hidden_sizes"), "policy_kwargs.net_arch"),
        Fixed(("network.initialization",), None, "begins with torch's own weights, uniform ones"),
        Fixed(("network.squash",), False, ""),
        Fixed(("network.state_dependent_std",), False, ""),
        Fixed(("network.log_std_init",), 0.0, ""),
        Fixed(("agent.double",), False, "has no double DQN"),
        Fixed(("agent.dueling", "agent.dueling_advantage"), False, "has no dueling networks"),
        Fixed(("agent.noisy", "agent.noisy_std"), False, "has no noisy networks"),
        Fixed(
            ("agent.distributional", "agent.atoms.count", "agent.atoms.v_min", "agent.atoms.v_max"),
            False,
            "learns expected values",
        ),
        Fixed(
            ("agent.replay.prioritized", "agent.replay.alpha", "agent.replay.beta"), False, "draws transitions evenly"
        ),
        Fixed(("agent.replay.folder", "agent.replay.device"), None, "keeps its replay buffer in memory"),
        Fixed(("agent.gradient_steps_per",), "update", "takes its gradient steps per update"),
        Fixed(("agent.epsilon.schedule",), "linear", "has ε fall linearly"),
        Fixed(("agent.epsilon.episodes",), None, "has ε fall over timesteps"),
        Fixed(("agent.loss",), "huber", "has Huber's loss"),
        Fixed(("agent.reward_scale",), 1.0, "learns from rewards as they are"),
        Mapped(("agent.n_step",), "n_steps"),
        Mapped(("agent.learning_rate", "agent.learning_rate_schedule"), "learning_rate", _scheduled("learning_rate")),
        Mapped(("agent.replay.size",), "buffer_size"),
        # SB3 learns once there are more transitions than this, ours once there are as many.
        Mapped(("agent.learning_starts",), "learning_starts", lambda config: config.agent.learning_starts - 1),
        Mapped(("agent.num_steps",), "train_freq"),
        Mapped(("agent.gradient_steps",), "gradient_steps"),
        Mapped(("agent.minibatch_size",), "batch_size"),
        Mapped(("agent.target.interval",), "target_update_interval", _target_interval, _target_note),
        Mapped(("agent.target.tau",), "tau"),
        Mapped(("agent.gamma",), "gamma"),
        Mapped(
            ("agent.epsilon.start",),
            "exploration_initial_eps",
            lambda config: 1.0 if config.agent.epsilon.start is None else config.agent.epsilon.start,
        ),
        Mapped(("agent.epsilon.end",), "exploration_final_eps"),
        Mapped(("agent.epsilon.fraction",), "exploration_fraction"),
        Mapped(("agent.max_grad_norm",), "max_grad_norm", _limit),
        Mapped(("agent.adam_eps",), "policy_kwargs.optimizer_kwargs.eps"),
    ),
}
"""For each agent's config, a row for every field."""


def _value(config: TrainConfig, field: str) -> Any:
    """Returns the value of a field by its dotted name."""
    found: Any = config
    for name in field.split("."):
        found = getattr(found, name)
    return found


def mapped_arguments(config: TrainConfig) -> dict[str, Any]:
    """Returns the arguments for a peer's constructor by their dotted names; imports torch."""
    found = {}
    for row in FIELDS[config.agent.name]:
        if isinstance(row, Mapped) and not row.theirs.startswith("{"):
            value = row.value(config) if row.value else _value(config, row.ours[0])
            if row.theirs != "policy_kwargs.net_arch" or value is not None:
                found[row.theirs] = value
    if not found.get("use_rms_prop", True):  # Adam's ε has no argument of its own
        found["policy_kwargs.optimizer_kwargs.eps"] = found["rms_prop_eps"]
    return found


def differences(config: TrainConfig, peer: Peer) -> list[str]:
    """Lists sentences about fields of a configuration that a peer cannot follow, and other differences."""
    found = []
    for row in FIELDS[config.agent.name]:
        value = _value(config, row.ours[0])
        if isinstance(row, Fixed):
            if value != row.equal and row.theirs:
                found.append(f"{row.ours[0]}={value}: {peer.label} {row.theirs}")
        elif note := row.note(config):
            found.append(f"{row.ours[0]}={value}: in {peer.label} {note}")
    if config.total_episodes is not None:
        found.append(f"total_episodes={config.total_episodes}: {peer.label} counts timesteps alone")
    return [*found, *([f"{peer.label} {peer.differs}"] if peer.differs else [])]


def nested(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Returns arguments with dotted names as dicts within each other."""
    tree: dict[str, Any] = {}
    for name, value in arguments.items():
        *groups, last = name.split(".")
        place = tree
        for group in groups:
            place = place.setdefault(group, {})
        place[last] = value
    return tree


def accepted(peer: Peer, arguments: Mapping[str, Any], *, strict: bool) -> dict[str, Any]:
    """Returns those of the arguments that a peer's constructor has; raises RlkitError for others if `strict`."""
    import inspect

    known = [name for name in inspect.signature(peer.find()).parameters if name not in ("policy", "env", "self")]
    unknown = [name for name in arguments if name.partition(".")[0] not in known]
    if strict and unknown:
        hint = nearest(unknown[0], known)
        meant = f"; did you mean '{hint}'?" if hint else ""
        raise RlkitError(f"sb3_args: {peer.label} has no argument '{unknown[0]}'{meant}")
    return {name: value for name, value in arguments.items() if name not in unknown}
