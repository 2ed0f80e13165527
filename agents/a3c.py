"""Asynchronous advantage actor-critic (Mnih et al. 2016): several processes improve one set of parameters, unlocked.

Read top to bottom: the hyperparameters, then the agent that each worker process has: it acts, computes A2C's gradient
on its own network, moves the shared parameters along it, and copies them back. `rlkit.workers.worker` is the process
around it; without one it is A2C. A test holds one worker to the same parameters as A2C, to the last bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from gymnasium import spaces

from rlkit.advantages import policy_batch
from rlkit.agents.a2c import OPTIMIZERS, A2CCoefficients, a2c_loss
from rlkit.agents.base import Agent, Step, as_batch
from rlkit.buffers.rollout import RolloutBuffer
from rlkit.config import NetworkConfig
from rlkit.errors import RlkitError, check_choice, check_fields, check_range
from rlkit.maths.returns import explained_variance
from rlkit.maths.schedules import SCHEDULES, scheduled
from rlkit.spaces import Array, Obs

if TYPE_CHECKING:
    from rlkit.engine.shared import SharedParameters
    from rlkit.workers.parameter_server import RemoteParameters


@dataclass
class A3CConfig:
    """A3C's hyperparameters."""

    name: ClassVar[str] = "a3c"

    num_workers: int | str = "auto"
    """Worker processes, each with its own environments (`num_envs` of them) and its own copy of the network; `auto`:
    one per core."""
    max_restarts: int = 3
    """How many times a worker that dies is started again, in the whole run; after that the run ends."""
    learning_rate: float = 7e-4
    """The optimiser's step size."""
    learning_rate_schedule: str = "linear"
    """`linear` to zero over the run, by the steps of all workers, as in the paper, or `constant`."""
    num_steps: int = 5
    """Steps per environment in each rollout, after which a worker updates: the n of n-step returns."""
    gamma: float = 0.99
    """Discount factor."""
    gae_lambda: float = 1.0
    """Generalised advantage estimation: 1 is the n-step return up to the rollout's end, less the value, as in the
    paper; 0 the TD error."""
    ent_coef: float = 0.01
    """Weight of the entropy bonus."""
    vf_coef: float = 0.5
    """Weight of the value loss (the mean squared error)."""
    max_grad_norm: float | None = 0.5
    """Each worker's gradients are scaled down to this global norm; null: not at all."""
    normalize_advantages: bool = False
    """Whiten the advantages of each rollout."""
    normalize_rewards: bool = False
    """Divide rewards by the running standard deviation of the discounted return, over all workers, and clip them to
    ±10."""
    optimizer: str = "rmsprop"
    """`rmsprop`, as in the paper, with one set of statistics for policy and value and a decay of 0.99; or `adam`. All
    workers share the optimiser's statistics."""
    optimizer_eps: float = 1e-5
    """The optimiser's ε. RMSProp adds it to the root of the mean square, as PyTorch does; the paper adds its 0.1 below
    the root, where it bounds the steps as 0.3 would here."""

    def validate(self, num_envs: int) -> None:
        """Raises RlkitError on the first field whose value cannot work."""
        if isinstance(self.num_workers, str):
            if self.num_workers != "auto":
                raise RlkitError(f"agent.num_workers={self.num_workers}: expected a whole number, or auto")
        else:
            check_range("agent.num_workers", self.num_workers, 1)
        check_choice("agent.learning_rate_schedule", self.learning_rate_schedule, SCHEDULES)
        check_choice("agent.optimizer", self.optimizer, OPTIMIZERS)
        check_fields(
            self,
            "agent",
            counts=("num_steps",),
            positive=("learning_rate", "max_grad_norm"),
            not_negative=("max_restarts", "ent_coef", "vf_coef", "optimizer_eps"),
            shares=("gamma", "gae_lambda"),
        )


class A3C(Agent):
    """One worker's agent: acts by its own copy of the policy, and improves the one that all workers share.

    Until `share` or `connect` it has no company, and improves its own.
    """

    def __init__(
        self,
        config: A3CConfig,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        *,
        network: NetworkConfig | None = None,
        num_envs: int = 1,
        seed: int = 0,
        device: str = "auto",
        compute: str = "auto",
    ) -> None:
        # Imported here so that reading A3CConfig, as the command line does for --help, does not import torch.
        from rlkit.engine.make import make_actor_critic, make_engine
        from rlkit.engine.native.policy_gradient import a2c_gradient
        from rlkit.networks.normalization import RewardNormalizer, RunningStatistics
        from rlkit.policy import ActorCriticPolicy

        self.config, self.network_config = config, network or NetworkConfig()
        self.observation_space, self.action_space = observation_space, action_space
        self.steps_per_update = config.num_steps
        init_seed, act_seed = np.random.SeedSequence(seed).spawn(2)
        # Shared parameters are in the CPU's memory.
        self.network, self.device = make_actor_critic(
            observation_space, action_space, self.network_config, init_seed, "cpu" if device == "auto" else device
        )
        self.engine, self.compute = make_engine(
            self.network, compute, a2c_loss, a2c_gradient, config.max_grad_norm, config.optimizer_eps, config.optimizer
        )
        rewards = RewardNormalizer(config.gamma, num_envs) if config.normalize_rewards else None
        self.policy = ActorCriticPolicy(self.network, self.engine, act_seed, rewards=rewards)
        self.model = self.policy.model
        self._statistics = [part for part in self.model.modules() if isinstance(part, RunningStatistics)]
        self._remote: RemoteParameters | None = None

    def shareable(self) -> tuple[Array, list[int]]:
        """What workers have in common: the parameters, flat, and how many numbers each of the running statistics has.

        Raises RlkitError for an agent on a GPU.
        """
        import torch

        if self.device != "cpu":
            raise RlkitError(
                f"device={self.device}: A3C's workers share parameters in the CPU's memory; expected device=cpu, or "
                "an agent that uses a GPU better: agent=a2c or agent=ppo"
            )
        parameters = torch.nn.utils.parameters_to_vector(self.network.parameters()).detach().numpy()
        return parameters, [statistics.shared_row for statistics in self._statistics]

    def make_shared(self, num_workers: int) -> SharedParameters:
        """This agent's parameters, in memory that it shares from now on, and that the workers `share` as well.

        Raises RlkitError for an agent on a GPU.
        """
        from rlkit.engine.shared import SharedParameters

        parameters, rows = self.shareable()
        shared = SharedParameters(parameters, self.engine.descent.moments, rows, num_workers)
        self.share(shared)
        return shared

    def share(self, shared: SharedParameters, worker: int = 0) -> None:
        """From now on updates move the shared parameters, as the worker of that number; starts from a copy of them."""
        self.engine.descent.share(shared, worker)
        for statistics, rows in zip(self._statistics, shared.statistics, strict=True):
            statistics.share(rows, worker)
        self.pull()

    def connect(self, remote: RemoteParameters) -> None:
        """From now on updates send their gradients to a server; starts from a copy of its parameters."""
        self._remote = remote
        self.engine.descent.send(remote.push, remote.parameters)
        for statistics, rows in zip(self._statistics, remote.statistics, strict=True):
            statistics.share(rows, remote.worker)
        self.pull()

    def pull(self) -> None:
        """Copies the shared parameters, and the running statistics of all workers, into this agent's network."""
        if self._remote is not None:
            self._remote.pull()
        self.engine.descent.pull()
        for statistics in self._statistics:
            statistics.pull()

    def make_buffer(self, num_envs: int) -> RolloutBuffer:
        return RolloutBuffer(self.config.num_steps, num_envs)

    def act(self, obs: Obs, *, action_mask: Array | None = None, explore: bool = True) -> Step:
        action = self.policy.act(obs, action_mask, explore)
        return Step(action, self.network.head.env_action(action))

    def update(self, buffer: RolloutBuffer, progress: float) -> dict[str, float]:
        config = self.config
        batch, rows = policy_batch(buffer, self.policy, config.gamma, config.gae_lambda)
        learning_rate = scheduled(config.learning_rate_schedule, config.learning_rate, progress)
        coefficients = A2CCoefficients(config.ent_coef, config.vf_coef, config.normalize_advantages)
        self.engine.load(batch)
        step = self.engine.step(rows, coefficients, learning_rate)  # the gradient is ours, what it moves is everyone's
        metrics = {f"train/{name}": value for name, value in step.items()}
        metrics["train/explained_variance"] = explained_variance(batch.values[rows], batch.returns[rows])
        metrics["train/learning_rate"] = learning_rate
        self.network.features.update(buffer.obs_of(rows))
        buffer.clear()
        self.pull()  # what the others have learned meanwhile
        return metrics

    def value(self, obs: Any) -> Array:
        """The values of a batch of observations: (batch,)."""
        return self.policy.values(as_batch(self.observation_space, obs)[0])

    def action_probabilities(self, obs: Any, action_masks: Array | None = None) -> Array:
        """The probability of each action for a batch of observations: (batch, number of actions).

        Raises RlkitError unless the action space is Discrete.
        """
        return self.policy.probabilities(as_batch(self.observation_space, obs)[0], action_masks)

    def state_dict(self) -> dict[str, Any]:
        return self.policy.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.policy.load_state_dict(state)
