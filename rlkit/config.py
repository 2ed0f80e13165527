"""The configuration of a run: typed, documented, checked. Imports neither torch nor Hydra.

An agent's own fields are in the dataclass beside it (`agents/ppo.py`), the network's in `rlkit/setting.py`. Every field
has its default there, its documentation below it, and a check in `validate`; the command line, the Python API and
`docs/configuration.md` all come from these classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from rlkit.agents import VARIANTS
from rlkit.envs.make import VECTORIZATIONS
from rlkit.errors import RlkitError, check_choice, check_range
from rlkit.setting import Abilities, AgentConfig, NetworkConfig, check_compute
from rlkit.system.ranks import launched

DEVICES = ("auto", "cpu", "cuda")
"""Choices of `TrainConfig.device`."""
PREPROCESSINGS = ("auto", "none", "atari")
"""Choices of `EnvConfig.preprocessing`."""
DISTRIBUTIONS = ("none", "ray")
"""Choices of `TrainConfig.distributed`."""
EVALUATIONS_PER_RUN = 10
"""Evaluations in a run, unless `eval_interval` says otherwise."""
EVAL_STEPS_LIMITS = (1_000, 100_000)
"""Least and greatest number of steps after which `eval_max_steps=null` cuts an episode."""


@dataclass
class EnvConfig:
    """The environment, and the preprocessing between it and the agent."""

    id: str = "CartPole-v1"
    """A registered Gymnasium id, `ALE/…` ids included, or `package.module:Id`, whose module is imported first."""
    preprocessing: str = "auto"
    """`atari`: the usual Atari stack (grey 84x84, frame skip 4, max-pool, no-op starts, 4 frames stacked; in
    training also sign rewards and one episode per life); `none`: the environment as it is; `auto`: `atari` for
    `ALE/…` ids, else `none`."""


@dataclass
class TrainConfig:
    """The configuration of one training run."""

    removed: ClassVar[Mapping[str, str]] = {
        "overlap": "overlap is gone: vectorization=async steps waiting environments side by side"
    }
    """Fields of earlier versions, with the advice that a user who sets one is given."""

    agent: Any = None
    """The agent's own config dataclass; its class says which agent it is."""
    env: EnvConfig = field(default_factory=EnvConfig)
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments for the environment's constructor."""
    network: NetworkConfig = field(default_factory=NetworkConfig)
    logger: dict[str, Any] = field(default_factory=dict)
    """Loggers beside the CSV file, by name; `logger=[tensorboard,wandb]` on the command line."""
    own_classes: dict[str, str] = field(default_factory=dict)
    """The classes of your own, `package.module:Class`, that `agent=…` and `logger=[…]` chose: they set this."""
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
    """Engine that computes networks: `torch` (autograd, for every network), `native` (analytic gradients in C, for
    plain MLPs on the CPU, faster, where it was built), `cudagraph` (torch on a GPU, whose kernels are recorded once and
    then launched all together), or `auto`: the fastest of these. `compile` is torch with network and loss fused by
    torch.compile, which takes half a minute at first; on a GPU that is recorded too."""
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
    eval_max_steps: int | None = None
    """Steps after which an episode of an evaluation is cut if the environment says no time limit of its own; null: as
    many as training takes between two evaluations, but from 1,000 to 100,000."""
    checkpoint_interval: int | None = None
    """Timesteps between writes of checkpoints/last; null: a tenth of the run; 0: only at the end."""
    log_interval: int | None = None
    """Timesteps between rows of metrics.csv; null: a two-hundredth of the run, at least one update."""
    verbose: bool = True
    """Say on the terminal what was chosen, how far the run is, and where its results are. false: only errors, and
    remarks about what went wrong."""
    curves: bool = True
    """Draw the return and a few more metrics into curves.png, when the run has ended and its results are written."""
    profile: bool = False
    """Say at the end where the time went, and write it to profile.json. It costs a few microseconds per step."""

    @property
    def abilities(self) -> Abilities:
        """The ways of running that the agent supports."""
        agent: AgentConfig = self.agent
        return agent.abilities

    @property
    def max_eval_episode_steps(self) -> int:
        """Steps after which an episode of an evaluation is cut: `eval_max_steps`, or what null stands for."""
        if self.eval_max_steps is not None:
            return self.eval_max_steps
        interval = self.total_timesteps // EVALUATIONS_PER_RUN if self.eval_interval is None else self.eval_interval
        least, most = EVAL_STEPS_LIMITS
        return min(max(least, interval or self.total_timesteps), most)

    def remarks(self) -> list[str]:
        """Sentences for the user about values that can work, but hardly are meant."""
        starts = self.agent.steps_without_learning()
        if starts < self.total_timesteps:
            return []
        return [
            f"the agent only collects in its first {starts:,} timesteps, and total_timesteps={self.total_timesteps}: "
            "next to nothing is learned; raise total_timesteps, or lower agent.learning_starts"
        ]

    def validate(self) -> None:
        """Raises RlkitError on the first field whose value cannot work."""
        check_range("total_timesteps", self.total_timesteps, 1)
        check_range("total_episodes", self.total_episodes, 1)
        check_range("num_envs", self.num_envs, 1)
        check_range("seed", self.seed, 0, 2**31 - 1)
        check_range("eval_episodes", self.eval_episodes, 1)
        check_range("final_eval_episodes", self.final_eval_episodes, 0)
        check_range("eval_max_steps", self.eval_max_steps, 1)
        check_range("eval_interval", self.eval_interval, 0)
        check_range("checkpoint_interval", self.checkpoint_interval, 0)
        check_range("log_interval", self.log_interval, 1)
        if self.profile and self.abilities.has_workers:
            raise RlkitError(
                f"profile=true is for agents that learn in this process; agent={self.agent.name} does in others"
            )
        check_choice("vectorization", self.vectorization, VECTORIZATIONS)
        check_choice("device", self.device, DEVICES)
        check_compute(self.compute)
        check_choice("env.preprocessing", self.env.preprocessing, PREPROCESSINGS)
        self.network.validate()
        check_choice("distributed", self.distributed, DISTRIBUTIONS)
        if self.distributed == "ray":
            self._check_ray()
        elif self.ray_address is not None:
            raise RlkitError(f"ray_address={self.ray_address} is of use with distributed=ray only")
        self.agent.validate(self.num_envs)
        self._check_ranks()

    def _check_ray(self) -> None:
        name = self.agent.name
        if not self.abilities.has_workers:
            able = " or ".join(_agents(lambda abilities: abilities.has_workers))
            instead = f"expected agent={able}"
            if self.abilities.shared_fields is not None:
                instead += f", or torchrun: torchrun --nproc-per-node 2 -m rlkit agent={name} …"
            raise RlkitError(f"distributed=ray is for agent={able}, not for agent={name}; {instead}")
        if (size := launched().size) > 1:
            raise RlkitError(f"distributed=ray starts its workers itself; expected one process, not torchrun's {size}")
        if self.ray_address is not None:
            check_ray_address("ray_address", self.ray_address)

    def _check_ranks(self) -> None:
        """Raises RlkitError if torchrun's processes cannot divide the work."""
        if (size := launched().size) == 1:
            return
        shared_fields = self.abilities.shared_fields
        if shared_fields is None:
            able = ", ".join(_agents(lambda abilities: abilities.shared_fields is not None))
            raise RlkitError(
                f"agent={self.agent.name} cannot be trained by {size} processes under torchrun; those that can: {able}"
            )
        if self.total_episodes is not None:
            raise RlkitError(
                f"total_episodes={self.total_episodes} cannot be kept by {size} processes under torchrun, which each "
                "count their own; expected total_timesteps alone"
            )
        shared = {f"agent.{name}": getattr(self.agent, name) for name in shared_fields}
        for name, value in {"num_envs": self.num_envs, **shared}.items():
            if value % size:
                nearest = max(1, round(value / size)) * size
                raise RlkitError(
                    f"{size} processes cannot share {name}={value} evenly; the nearest that works: {nearest}"
                )


def _agents(can: Callable[[Abilities], bool]) -> list[str]:
    """Lists the names of our agents whose abilities fulfil a condition."""
    return sorted({config.name for variant in VARIANTS.values() if can((config := variant.make()).abilities)})


def check_ray_address(name: str, address: str) -> None:
    """Raises RlkitError unless the address has the form of a Ray cluster's: host:port, or auto."""
    host, _, port = address.rpartition(":")
    if address.startswith("ray://"):
        raise RlkitError(
            f"{name}={address}: Ray Client is not supported; run on a node of the cluster, or with `ray job submit`, "
            f"and {name}=auto"
        )
    if address != "auto" and not (host and port.isascii() and port.isdigit() and 1024 <= int(port) < 2**16):
        raise RlkitError(f"{name}={address}: expected host:port, with a port of 1024 to 65535, or auto")
