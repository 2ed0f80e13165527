"""The setting that every agent is made for, and the parts of a configuration that agents and networks know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, is_dataclass, replace
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar

from gymnasium import spaces

from rlkit.errors import RlkitError, check_choice, check_range, unknown
from rlkit.system.dotted_paths import check_form, dotted_path
from rlkit.system.ranks import ALONE, Ranks

ENCODERS = ("auto", "mlp", "cnn", "minatar", "auto_v1", "cnn_v1")
"""Choices of `NetworkConfig.encoder`."""
ACTIVATIONS = (
    *("celu", "elu", "gelu", "hardshrink", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "logsigmoid", "mish"),
    *("prelu", "relu", "relu6", "selu", "sigmoid", "silu", "softplus", "softshrink", "softsign", "tanh", "tanhshrink"),
)
"""Torch's activations that map each number by itself and need no arguments; a test compares them with torch's own."""
INITIALIZATIONS = ("orthogonal", "he_normal")
"""Choices of `NetworkConfig.initialization`."""
AMPS = ("auto", "off", "bfloat16")
"""Choices of `NetworkConfig.amp`."""
COMPUTES = ("auto", "torch", "compile", "cudagraph", "native")
"""Choices of `TrainConfig.compute`."""

Config = TypeVar("Config")


class Abilities(NamedTuple):
    """The ways of running that an agent supports beside one process, said on its config class."""

    shared_fields: tuple[str, ...] | None = None
    """Fields that torchrun's processes divide between them; None: several processes cannot train the agent."""
    has_workers: bool = False
    """True if worker processes of its own collect and learn, in place of the process that was started."""


class AgentConfig(Protocol):
    """An agent's hyperparameters: a dataclass derived from this, whose fields are documented below them."""

    abilities: ClassVar[Abilities] = Abilities()
    for_probes: ClassVar[Mapping[str, Any]] = {}
    """Values of fields that suit tasks as small as the probe environments, for `rlkit.testing.check_agent`."""
    renamed: ClassVar[Mapping[str, str]] = {}
    """Names of fields in earlier versions, and those that they have now: `{"tau": "target.tau"}`."""
    removed: ClassVar[Mapping[str, str]] = {}
    """Fields of earlier versions that are gone, and sentences for users who set them."""

    @property
    def name(self) -> str:
        """The agent's own name, which saved agents and summaries say."""

    def validate(self, num_envs: int) -> None:
        """Raises RlkitError on the first field whose value cannot work."""

    def steps_without_learning(self) -> int:
        """Timesteps at the beginning of a run in which the agent only collects."""
        return 0

    @classmethod
    def upgraded(cls, fields: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of an agent that an earlier version saved, with the names and groups that they have now."""
        found: dict[str, Any] = {name: value for name, value in fields.items() if name not in cls.renamed}
        for name in cls.renamed.keys() & fields.keys():
            *groups, new = cls.renamed[name].split(".")
            place = found
            for group in groups:
                place = place.setdefault(group, {})
            place[new] = fields[name]
        return found


@dataclass
class NetworkConfig:
    """The function approximator: the same fields for every agent."""

    encoder: str = "auto"
    """`auto` picks by observation space: a CNN for images of 7 pixels or more, one-hot for discrete, the vector itself
    otherwise; `mlp` flattens images too; `cnn` treats every array of two or more dimensions as an image. Both take
    MinAtar's network for images below 36 pixels and the larger one of Mnih et al. for others; `minatar` is `cnn` with
    MinAtar's for all. `auto_v1` and `cnn_v1`: as agents were that earlier versions saved, with images of 8 pixels or
    more, and 512 units behind 32 and 64 filters for those below 36."""
    backbone: Any = None
    """The run folder of a companion model (`rlkit.perception`), whose features of images take the place of the CNN's;
    null: none. It is saved with the agent."""
    freeze_backbone: bool = True
    """Leave the backbone as it is; images are then encoded before the network that learns. false: tune it with it."""
    module: Any = None
    """A network of your own in place of the encoder: `package.module:Class`, a `torch.nn.Module` that is made as
    `Class(observation_space, **module_args)` and maps observations to features, (batch, num_features); null: none."""
    module_args: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments for the constructor of `module`: numbers, strings, lists and dicts."""
    cnn_features: int | None = None
    """Units of the last layer of each of our CNNs, its features of an image; null: 512, or 128 of images below 36
    pixels."""
    hidden_sizes: list[int] | None = None
    """Units of each hidden layer of the policy and of the value network, which share nothing but what encodes
    observations; null: [64, 64], or no hidden layer behind one CNN of ours alone, which ends in one. []: outputs
    directly from the features."""
    critic_hidden_sizes: list[int] | None = None
    """Units of each hidden layer of the value network, for agents with a policy; null: as hidden_sizes."""
    activation: str = "tanh"
    """Between hidden layers: `tanh`, `relu`, `elu`, `silu`, `gelu`, `leaky_relu`, or another of torch's by name, such
    as `mish` or `softplus`, which only torch computes."""
    layer_norm: bool = False
    """Normalise what each hidden layer makes of a row to a mean of zero and a variance of one, before its activation,
    with a gain and a shift that are learned (Ba et al. 2016)."""
    initialization: str = "orthogonal"
    """The first weights; biases start at zero. `orthogonal`: with gain √2, and 0.01 for a policy's outputs, whose first
    actions are then nearly uniform; `he_normal`: N(0, 2 / inputs), outputs included (Keras's `he_normal`)."""
    scale_obs: bool = True
    """Scale Boxes by bounds that are far, between ±30 and ±1e6, to 0 … 1, or -1 … 1 where they lie on both sides of
    zero: bytes reach every network as 0 … 1. Numbers with nearer bounds, or with none, stay as they are; with
    normalize_obs, so do vectors. A `module` of your own gets numbers as they come."""
    normalize_obs: bool = False
    """Whiten vector observations, and the features of a frozen backbone, by running statistics, clipped to ±10. The
    statistics are part of the model file, and stand still in evaluation."""
    squash: bool = False
    """Box actions: squash the Gaussian through tanh onto the action bounds. Otherwise actions are clipped to them."""
    log_std_init: float = 0.0
    """Box actions: the logarithm of the policy's initial standard deviation."""
    state_dependent_std: bool = False
    """Box actions: the standard deviation is an output of the policy network instead of one free parameter."""
    amp: str = "auto"
    """Mixed precision of CNNs; what follows them is computed in float32. `bfloat16`, `off`, or `auto`: bfloat16 on a
    GPU that has it, else off. On a CPU it is faster where the processor multiplies bfloat16 (AVX-512 BF16, AMX).
    A `module` of your own is mixed with `bfloat16` only."""

    def __post_init__(self) -> None:
        """Names a class given as `module` by its path; raises RlkitError where it has none."""
        if isinstance(self.module, type):
            self.module = dotted_path("network.module", self.module)

    def validate(self) -> None:
        """Raises RlkitError on the first field whose value cannot work."""
        check_choice("network.encoder", self.encoder, ENCODERS)
        check_choice("network.initialization", self.initialization, INITIALIZATIONS)
        check_choice("network.amp", self.amp, AMPS)
        if activation_key(self.activation) not in map(activation_key, ACTIVATIONS):
            raise unknown("network.activation", self.activation, ACTIVATIONS)
        for name in ("hidden_sizes", "critic_hidden_sizes"):
            for size in getattr(self, name) or []:
                check_range(f"network.{name}", size, 1)
        check_range("network.cnn_features", self.cnn_features, 1)
        check_range("network.log_std_init", self.log_std_init, -20, 2)
        self._check_module()

    @classmethod
    def upgraded(cls, fields: Mapping[str, Any], *, images: bool) -> dict[str, Any]:
        """Returns the fields of a network that an earlier version saved so that they still mean that network.

        Formats 1 and 2 had no hidden layers behind CNNs, whatever else was observed beside the images, and no scaling.
        Their `encoder`, and that of format 3, is `earlier_encoder`'s.
        """
        behind_cnns = images and fields.get("backbone") is None and fields.get("module") is None
        if behind_cnns and fields.get("hidden_sizes") is None:
            fields = {**fields, "hidden_sizes": []}
        return {**fields, "scale_obs": False}

    @classmethod
    def earlier_encoder(cls, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the fields of a network of format 3 or earlier with the encoder's name as it is now."""
        encoder = fields.get("encoder", cls.encoder)
        return {**fields, "encoder": {"auto": "auto_v1", "cnn": "cnn_v1"}.get(encoder, encoder)}

    def _check_module(self) -> None:
        if self.module is None:
            if self.module_args:
                raise RlkitError(f"network.module_args={self.module_args} is of use with network.module only")
            return
        check_form("network.module", self.module)
        for name, defaults in (("backbone", [None]), ("encoder", ["auto", "auto_v1"])):
            if (value := getattr(self, name)) not in defaults:
                raise RlkitError(
                    f"network.{name}={value} and network.module={self.module} both encode observations: leave out one"
                )


def activation_key(name: str) -> str:
    """Normalises the spelling of an activation's name, so that `LeakyReLU` and `leaky_relu` compare equal."""
    return name.lower().replace("_", "")


def check_compute(compute: str) -> None:
    """Raises RlkitError unless `compute` is one of `COMPUTES`."""
    if compute == "numpy":
        choices = f"{', '.join(COMPUTES[:-1])} or {COMPUTES[-1]}"
        raise RlkitError(f"compute=numpy is gone, and torch computes where the C engine cannot: expected {choices}")
    check_choice("compute", compute, COMPUTES)


@dataclass(frozen=True)
class Setting:
    """The spaces, the network and the machine that an agent is made for, beside its own hyperparameters."""

    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    network: NetworkConfig = field(default_factory=NetworkConfig)
    num_envs: int = 1
    """Environments that this process steps side by side."""
    seed: int = 0
    """Seed of the initial weights, the actions and the minibatches."""
    device: str = "auto"
    """Device of the network: `TrainConfig.device`."""
    compute: str = "auto"
    """Engine that computes the network: `TrainConfig.compute`."""
    ranks: Ranks = ALONE
    """The process group that trains together."""


def updated(config: Config, values: Mapping[str, Any]) -> Config:
    """Copies a config dataclass with other values for some fields; a mapping as a value updates a nested config.

    Raises TypeError for a field that does not exist.
    """
    changes = dict(values)
    for name, value in values.items():
        if is_dataclass(nested := getattr(config, name, None)) and isinstance(value, Mapping):
            changes[name] = updated(nested, value)
    return replace(config, **changes)  # type: ignore[type-var]  # every config is a dataclass
