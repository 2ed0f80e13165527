"""What a run is made of: typed configs, their documentation, and their checks. Imports neither torch nor Hydra.

An agent's own fields are in the dataclass beside it (`agents/ppo.py`). Every field has its default here, its
documentation below it, and a check in `validate`; the command line, the Python API and `docs/configuration.md`
all come from these classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, is_dataclass, replace
from typing import Any, ClassVar, TypeVar

from rlkit.dotted_paths import check_form, dotted_path
from rlkit.errors import RlkitError, check_choice, check_range, unknown
from rlkit.system import ranks

Config = TypeVar("Config")

VECTORIZATIONS = ("auto", "sync", "async", "native", "envpool")
DEVICES = ("auto", "cpu", "cuda")
COMPUTES = ("auto", "torch", "compile", "numpy", "native")
PREPROCESSINGS = ("auto", "none", "atari")
ENCODERS = ("auto", "mlp", "cnn")
ACTIVATIONS = (
    *("celu", "elu", "gelu", "hardshrink", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "logsigmoid", "mish"),
    *("prelu", "relu", "relu6", "selu", "sigmoid", "silu", "softplus", "softshrink", "softsign", "tanh", "tanhshrink"),
)
"""Torch's activations that map each number by itself and need no arguments; a test compares them with torch's own."""
INITIALIZATIONS = ("orthogonal", "he_normal")
AMPS = ("auto", "off", "bfloat16")
DISTRIBUTIONS = ("none", "ray")


@dataclass
class EnvConfig:
    """Which environment, and what stands between it and the agent."""

    id: str = "CartPole-v1"
    """A registered Gymnasium id, `ALE/…` ids included, or `package.module:Id`, whose module is imported first."""
    preprocessing: str = "auto"
    """`atari`: the usual Atari stack (grey 84x84, frame skip 4, max-pool, no-op starts, 4 frames stacked; in
    training also sign rewards and one episode per life); `none`: the environment as it is; `auto`: `atari` for
    `ALE/…` ids, else `none`."""


@dataclass
class NetworkConfig:
    """The function approximator: the same fields for every agent."""

    encoder: str = "auto"
    """`auto` picks by observation space: a CNN for images, one-hot for discrete, the vector itself otherwise;
    `mlp` flattens images too; `cnn` treats every array of two or more dimensions as an image."""
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
    hidden_sizes: list[int] | None = None
    """Units of each hidden layer of the policy and of the value network, which share nothing but what encodes
    observations; null: [64, 64], or no hidden layer behind a CNN of ours. []: outputs directly from the features."""
    critic_hidden_sizes: list[int] | None = None
    """Units of each hidden layer of the value network, for agents with a policy; null: as hidden_sizes."""
    activation: str = "tanh"
    """Between hidden layers: `tanh`, `relu`, or another of torch's by name, such as `gelu`, `silu`, `elu` or
    `leaky_relu`, which only torch computes."""
    initialization: str = "orthogonal"
    """Of the weights; biases start at zero. `orthogonal`: with gain √2, and 0.01 for a policy's outputs, whose first
    actions are then nearly uniform; `he_normal`: N(0, 2 / inputs), outputs included (Keras's `he_normal`)."""
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
        check_range("network.log_std_init", self.log_std_init, -20, 2)
        self._check_module()

    def _check_module(self) -> None:
        if self.module is None:
            if self.module_args:
                raise RlkitError(f"network.module_args={self.module_args} is of use with network.module only")
            return
        check_form("network.module", self.module)
        for name, default in (("backbone", None), ("encoder", "auto")):
            if (value := getattr(self, name)) != default:
                raise RlkitError(
                    f"network.{name}={value} and network.module={self.module} both encode observations: leave out one"
                )


@dataclass
class TrainConfig:
    """One training run."""

    removed: ClassVar[Mapping[str, str]] = {
        "overlap": "overlap is gone: vectorization=async steps waiting environments side by side"
    }
    """Fields of earlier versions, with what to say to someone who sets one."""

    agent: Any = None
    """The agent's own config dataclass; its class says which agent it is."""
    env: EnvConfig = field(default_factory=EnvConfig)
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments for the environment's constructor."""
    network: NetworkConfig = field(default_factory=NetworkConfig)
    logger: dict[str, Any] = field(default_factory=dict)
    """Loggers beside the CSV file, by name; `logger=[tensorboard,wandb]` on the command line."""
    total_timesteps: int = 100_000
    """Environment steps to train for, counted over all environments; rounded up to whole updates, but for
    agent=a3c, which takes exactly so many."""
    total_episodes: int | None = None
    """Stop after so many episodes, should they end before total_timesteps have passed; null: never."""
    seed: int = 0
    """Seeds the environments, the network's initial weights, the actions and the minibatches."""
    num_envs: int = 8
    """Environments that are stepped side by side; of agent=a3c in each worker, by default one."""
    vectorization: str = "auto"
    """`sync` steps the environments in this process, `async` in one process each, `native` uses the
    environment's own vectorised implementation; `auto` measures an environment step and says what it chose.
    `envpool`: EnvPool's implementation of the environment, an extra; evaluations take Gymnasium's own."""
    device: str = "auto"
    """`cpu`, `cuda`, or `auto`: CUDA for convolutional networks where there is a GPU, else the CPU."""
    compute: str = "auto"
    """How networks are computed: `torch` (autograd, for every network), `numpy` (analytic gradients, for plain
    MLPs on the CPU, faster), `native` (the same in C, faster still, where it was built), or `auto`: the fastest of
    these. `compile` is torch with network and loss fused by torch.compile, which takes half a minute at first; on a
    GPU, acting is compiled as well."""
    distributed: str = "none"
    """`ray`: the workers of agent=a3c are actors on a Ray cluster, with a parameter server; `none`: processes of this
    machine. Other agents train on several processes, GPUs or machines under torchrun."""
    ray_address: str | None = None
    """The cluster of distributed=ray: `host:port` as `ray start --head` prints it, or `auto`, which finds one that runs
    on this machine; null: the one that RAY_ADDRESS names, or else one of its own on this machine."""
    eval_interval: int | None = None
    """Timesteps between evaluations on separate environments; null: a tenth of the run; 0: only at the end."""
    eval_episodes: int = 10
    """Episodes of each evaluation during training."""
    final_eval_episodes: int = 20
    """Episodes of the evaluation at the end, whose result goes into summary.json; 0 leaves it out."""
    checkpoint_interval: int | None = None
    """Timesteps between writes of checkpoints/last; null: a tenth of the run; 0: only at the end."""
    log_interval: int | None = None
    """Timesteps between rows of metrics.csv; null: a two-hundredth of the run, at least one update."""
    profile: bool = False
    """Say at the end where the time went, and write it to profile.json. It costs a few microseconds per step."""

    @property
    def most_eval_episodes(self) -> int:
        """Of the longest evaluation."""
        return max(self.eval_episodes, self.final_eval_episodes)

    def validate(self) -> None:
        """Raises RlkitError on the first field whose value cannot work."""
        check_range("total_timesteps", self.total_timesteps, 1)
        check_range("total_episodes", self.total_episodes, 1)
        check_range("num_envs", self.num_envs, 1)
        check_range("seed", self.seed, 0, 2**31 - 1)
        check_range("eval_episodes", self.eval_episodes, 1)
        check_range("final_eval_episodes", self.final_eval_episodes, 0)
        check_range("eval_interval", self.eval_interval, 0)
        check_range("checkpoint_interval", self.checkpoint_interval, 0)
        check_range("log_interval", self.log_interval, 1)
        if self.profile and self.agent.name == "a3c":
            raise RlkitError("profile=true is for agents that learn in this process; agent=a3c does in others")
        check_choice("vectorization", self.vectorization, VECTORIZATIONS)
        check_choice("device", self.device, DEVICES)
        check_choice("compute", self.compute, COMPUTES)
        check_choice("env.preprocessing", self.env.preprocessing, PREPROCESSINGS)
        self.network.validate()
        check_choice("distributed", self.distributed, DISTRIBUTIONS)
        if self.distributed == "ray":
            self._check_ray()
        elif self.ray_address is not None:
            raise RlkitError(f"ray_address={self.ray_address} is of use with distributed=ray only")
        self.agent.validate(self.num_envs)
        ranks.check(self.agent, self.num_envs, self.total_episodes)

    def _check_ray(self) -> None:
        if self.agent.name != "a3c":
            instead = "expected agent=a3c"
            if self.agent.name in ranks.SHARED_FIELDS:
                instead += f", or torchrun: torchrun --nproc-per-node 2 -m rlkit agent={self.agent.name} …"
            raise RlkitError(f"distributed=ray is for agent=a3c, not for agent={self.agent.name}; {instead}")
        if (size := ranks.launched().size) > 1:
            raise RlkitError(f"distributed=ray starts its workers itself; expected one process, not torchrun's {size}")
        if self.ray_address is not None:
            check_ray_address("ray_address", self.ray_address)


def activation_key(name: str) -> str:
    """The name of an activation without what does not tell it from others: `LeakyReLU` is `leaky_relu`."""
    return name.lower().replace("_", "")


def updated(config: Config, values: Mapping[str, Any]) -> Config:
    """A copy of a config dataclass with other values for some fields; a mapping updates the nested config it is for.

    Raises TypeError for a field that does not exist.
    """
    changes = dict(values)
    for name, value in values.items():
        if is_dataclass(nested := getattr(config, name, None)) and isinstance(value, Mapping):
            changes[name] = updated(nested, value)
    return replace(config, **changes)  # type: ignore[type-var]  # every config is a dataclass


def check_ray_address(name: str, address: str) -> None:
    """Raises RlkitError unless the address has the form of a cluster's."""
    host, _, port = address.rpartition(":")
    if address.startswith("ray://"):
        raise RlkitError(
            f"{name}={address}: Ray Client is not supported; run on a node of the cluster, or with `ray job submit`, "
            f"and {name}=auto"
        )
    if address != "auto" and not (host and port.isascii() and port.isdigit() and 1024 <= int(port) < 2**16):
        raise RlkitError(f"{name}={address}: expected host:port, with a port of 1024 to 65535, or auto")
