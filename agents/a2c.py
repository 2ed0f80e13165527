"""Advantage actor-critic (Mnih et al. 2016, synchronous): one gradient step on each short rollout.

Read top to bottom: the hyperparameters, the loss, the agent. It is PPO with one epoch of one minibatch, where the
ratio is one and nothing is clipped (Huang et al. 2022, arXiv 2205.09123); a test holds the two to equal parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from rlkit.advantages import policy_batch
from rlkit.agents.policy_agent import PolicyAgent
from rlkit.buffers.batch import PolicyBatch
from rlkit.buffers.rollout import RolloutBuffer
from rlkit.engine.losses import whitened
from rlkit.errors import check_choice, check_fields
from rlkit.maths.returns import explained_variance
from rlkit.maths.schedules import SCHEDULES, scheduled
from rlkit.setting import Abilities, AgentConfig, Setting

if TYPE_CHECKING:
    from torch import Tensor

    from rlkit.networks.heads import Head
    from rlkit.system.ranks import Ranks

OPTIMIZERS = ("rmsprop", "adam")


@dataclass
class A2CConfig(AgentConfig):
    """A2C's hyperparameters."""

    name: ClassVar[str] = "a2c"
    abilities: ClassVar[Abilities] = Abilities(shared_fields=())
    for_probes: ClassVar[Mapping[str, Any]] = {"num_steps": 8, "learning_rate": 3e-3, "ent_coef": 0.01}

    learning_rate: float = 7e-4
    """The optimiser's step size."""
    learning_rate_schedule: str = "linear"
    """`linear` to zero over the run, as in the paper, or `constant`."""
    num_steps: int = 5
    """Steps per environment in each rollout: the n of n-step returns."""
    gamma: float = 0.99
    """Discount factor."""
    gae_lambda: float = 1.0
    """Generalised advantage estimation: 1 is the n-step return up to the rollout's end, less the value, as in the
    paper; 0 the TD error."""
    ent_coef: float = 0.0
    """Weight of the entropy bonus."""
    vf_coef: float = 0.5
    """Weight of the value loss (the mean squared error)."""
    max_grad_norm: float | None = 0.5
    """Gradients are scaled down to this global norm; null: not at all."""
    normalize_advantages: bool = False
    """Whiten the advantages of each rollout."""
    normalize_rewards: bool = False
    """Divide rewards by the running standard deviation of the discounted return, and clip them to ±10."""
    optimizer: str = "rmsprop"
    """`rmsprop`, as in the paper, with one set of statistics for policy and value and a decay of 0.99; or `adam`."""
    optimizer_eps: float = 1e-5
    """The optimiser's ε. RMSProp adds it to the root of the mean square, as PyTorch does; the paper adds its ε below
    the root, where it has to be the square of this to bound the steps alike."""

    def validate(self, num_envs: int) -> None:
        """Raises RlkitError on the first field whose value cannot work."""
        check_choice("agent.learning_rate_schedule", self.learning_rate_schedule, SCHEDULES)
        check_choice("agent.optimizer", self.optimizer, OPTIMIZERS)
        check_fields(
            self,
            "agent",
            counts=("num_steps",),
            positive=("learning_rate", "max_grad_norm"),
            not_negative=("ent_coef", "vf_coef", "optimizer_eps"),
            shares=("gamma", "gae_lambda"),
        )


class A2CCoefficients(NamedTuple):
    """The hyperparameters that the loss depends on."""

    ent_coef: float
    vf_coef: float
    normalize_advantages: bool
    ranks: Ranks
    """Advantages are whitened over all of them."""


def a2c_loss(
    head: Head, params: Tensor, values: Tensor, batch: PolicyBatch, c: A2CCoefficients
) -> tuple[Tensor, dict[str, Tensor]]:
    """A2C's loss on a rollout, and its parts.

    `params` (rows, num_params) and `values` (rows,) are the network's outputs. No gradient flows through the
    advantages and the returns, which are numbers in `batch`. The analytic engine computes this function's
    derivatives in `rlkit.engine.native.policy_gradient`.
    """
    advantages = whitened(batch.advantages, c.ranks) if c.normalize_advantages else batch.advantages
    policy_loss = -(head.log_prob(params, batch.action) * advantages).mean()
    value_loss = (values - batch.returns).square().mean()
    entropy = head.entropy(params).mean()
    loss = policy_loss - c.ent_coef * entropy + c.vf_coef * value_loss
    return loss, {"policy_loss": policy_loss, "value_loss": value_loss, "entropy": entropy}


class A2C(PolicyAgent[RolloutBuffer]):
    """Acts by sampling from its policy, and improves it by one step along each rollout's policy gradient."""

    config: A2CConfig

    def __init__(self, config: A2CConfig, setting: Setting) -> None:
        from rlkit.engine.actor_critic import ActorCriticLoss
        from rlkit.engine.descent import Optimization
        from rlkit.engine.native.policy_gradient import a2c_gradient

        super().__init__(
            config,
            setting,
            ActorCriticLoss(torch=a2c_loss, native=a2c_gradient),
            Optimization(config.max_grad_norm, config.optimizer_eps, config.optimizer),
            reward_gamma=config.gamma if config.normalize_rewards else None,
        )
        self.steps_per_update = config.num_steps

    def make_buffer(self, num_envs: int) -> RolloutBuffer:
        return RolloutBuffer(self.config.num_steps, num_envs)

    def update(self, buffer: RolloutBuffer, progress: float) -> dict[str, float]:
        config = self.config
        batch, rows = policy_batch(buffer, self.policy, config.gamma, config.gae_lambda, log_prob=False)
        learning_rate = scheduled(config.learning_rate_schedule, config.learning_rate, progress)
        coefficients = A2CCoefficients(config.ent_coef, config.vf_coef, config.normalize_advantages, self.ranks)
        self.engine.load(batch)
        step = self.engine.step(rows, coefficients, learning_rate)
        metrics = {f"train/{name}": value for name, value in step.items()}
        metrics["train/explained_variance"] = explained_variance(batch.values[rows], batch.returns[rows])
        metrics["train/learning_rate"] = learning_rate
        # Only now, so that acting and learning saw observations through the same statistics.
        self.network.features.update(buffer.flat_obs(), self.ranks, rows)
        buffer.clear()
        return metrics
