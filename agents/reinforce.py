"""REINFORCE (Williams 1992): the Monte-Carlo policy gradient of whole episodes, with the choice of a baseline.

Read top to bottom: the hyperparameters, what an action was worth, the loss, the agent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from rlkit.agents.policy_agent import PolicyAgent
from rlkit.buffers.batch import PolicyBatch
from rlkit.buffers.episodes import EpisodeBuffer, Episodes
from rlkit.engine.losses import whitened
from rlkit.errors import RlkitError, check_choice, check_fields
from rlkit.maths.returns import discounted_returns, episode_baseline, explained_variance
from rlkit.maths.schedules import SCHEDULES, scheduled
from rlkit.setting import AgentConfig, Setting
from rlkit.spaces import Array

if TYPE_CHECKING:
    from torch import Tensor

    from rlkit.networks.heads import Head
    from rlkit.system.ranks import Ranks

BASELINES = ("none", "mean", "time_step", "value")
ADAM_EPS = 1e-8


@dataclass
class REINFORCEConfig(AgentConfig):
    """REINFORCE's hyperparameters."""

    name: ClassVar[str] = "reinforce"
    for_probes: ClassVar[Mapping[str, Any]] = {"num_steps": 8, "episodes_per_update": 16, "ent_coef": 0.01}

    baseline: str = "none"
    """The baseline that is subtracted from the returns. `none`; `mean`: the mean return of the update's other episodes;
    `time_step`: the mean of their rewards to go from the same time step on; `value`: a learned value network."""
    reward_to_go: bool = True
    """Weigh each action by the rewards that follow it; false: by the return of the whole episode."""
    episodes_per_update: int = 8
    """N, the whole episodes that an update needs at least: it takes all that have ended by then."""
    num_steps: int = 16
    """Steps per environment between two looks at how many episodes have ended. The textbook's algorithm, in which
    every episode is played by one policy from its start to its end, is num_envs=1 with 1 here."""
    learning_rate: float = 3e-3
    """Adam's step size."""
    learning_rate_schedule: str = "linear"
    """`linear` to zero over the run, or `constant`."""
    gamma: float = 0.99
    """Discount factor."""
    ent_coef: float = 0.0
    """Weight of the entropy bonus."""
    vf_coef: float = 0.5
    """`value` only: the weight of the value loss (the mean squared error)."""
    minibatch_size: int | None = None
    """Time steps per gradient step: an update goes through those of its episodes once, from the last to the first.
    null: one gradient step on all of them, which alone is the policy gradient of the policy that played them."""
    max_grad_norm: float | None = None
    """Gradients are scaled down to this global norm; null: not at all."""
    normalize_advantages: bool = False
    """Whiten what weighs the actions of a gradient step, whatever the baseline."""

    def validate(self, num_envs: int) -> None:
        """Raises RlkitError on the first field whose value cannot work."""
        check_choice("agent.baseline", self.baseline, BASELINES)
        check_choice("agent.learning_rate_schedule", self.learning_rate_schedule, SCHEDULES)
        check_fields(
            self,
            "agent",
            counts=("episodes_per_update", "num_steps", "minibatch_size"),
            positive=("learning_rate", "max_grad_norm"),
            not_negative=("ent_coef", "vf_coef"),
            shares=("gamma",),
        )
        if self.baseline in ("mean", "time_step") and self.episodes_per_update < 2:
            raise RlkitError(
                f"agent.baseline={self.baseline} compares episodes with each other: agent.episodes_per_update="
                f"{self.episodes_per_update} must be at least 2, or agent.baseline one of none, value"
            )


class REINFORCECoefficients(NamedTuple):
    """The numbers that the loss depends on: of the hyperparameters, and of the update's episodes."""

    num_episodes: int
    ent_coef: float
    vf_coef: float
    normalize_advantages: bool
    ranks: Ranks
    """Advantages are whitened over all of them."""


def reinforce_loss(
    head: Head, params: Tensor, values: Tensor, batch: PolicyBatch, c: REINFORCECoefficients
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss whose gradient is the policy gradient's estimate -(1/N) Σ_n Σ_t ∇log π(a|s) A, and its parts.

    `params` (rows, num_params) and `values` (rows,) are the network's outputs for the steps of all N episodes. The
    analytic engine computes this function's derivatives in `rlkit.engine.native.policy_gradient`.
    """
    advantages = whitened(batch.advantages, c.ranks) if c.normalize_advantages else batch.advantages
    policy_loss = -(head.log_prob(params, batch.action) * advantages).sum() / c.num_episodes
    entropy = head.entropy(params)
    value_loss = (values - batch.returns).square().mean()
    loss = policy_loss - c.ent_coef * entropy.sum() / c.num_episodes + c.vf_coef * value_loss
    return loss, {"policy_loss": policy_loss, "value_loss": value_loss, "entropy": entropy.mean()}


class REINFORCE(PolicyAgent[EpisodeBuffer]):
    """Acts by sampling from its policy, and makes actions more likely the more reward came of them."""

    config: REINFORCEConfig

    def __init__(self, config: REINFORCEConfig, setting: Setting) -> None:
        from rlkit.engine.actor_critic import ActorCriticLoss
        from rlkit.engine.descent import Optimization
        from rlkit.engine.native.policy_gradient import reinforce_gradient

        loss = ActorCriticLoss(torch=reinforce_loss, native=reinforce_gradient)
        super().__init__(config, setting, loss, Optimization(config.max_grad_norm, ADAM_EPS))
        self.steps_per_update = config.num_steps

    def make_buffer(self, num_envs: int) -> EpisodeBuffer:
        return EpisodeBuffer(num_envs)

    def update(self, buffer: EpisodeBuffer, progress: float) -> dict[str, float]:
        config = self.config
        if len(buffer) < config.episodes_per_update:
            return {}
        episodes = buffer.take()
        batch = self._batch(episodes)
        coefficients = REINFORCECoefficients(
            len(episodes.lengths),
            config.ent_coef,
            config.vf_coef if config.baseline == "value" else 0.0,
            config.normalize_advantages,
            self.ranks,
        )
        learning_rate = scheduled(config.learning_rate_schedule, config.learning_rate, progress)
        self.engine.load(batch)
        rows = np.arange(len(batch.returns))
        minibatches = np.split(rows, rows[:: config.minibatch_size or len(rows)][1:])
        history = [self.engine.step(minibatch, coefficients, learning_rate) for minibatch in reversed(minibatches)]
        metrics = {f"train/{name}": float(np.mean([step[name] for step in history])) for name in history[0]}
        metrics["train/learning_rate"] = learning_rate
        if config.baseline == "value":
            metrics["train/explained_variance"] = explained_variance(batch.values, batch.returns)
        else:
            del metrics["train/value_loss"]
        self.network.features.update(episodes.obs, self.ranks)
        return metrics

    def _batch(self, episodes: Episodes) -> PolicyBatch:
        """The steps of all episodes with what weighs them."""
        config = self.config
        features = self.network.features(episodes.obs)
        rewards = episodes.rewards.copy()
        values = np.zeros_like(rewards)
        if config.baseline == "value":
            values = self.engine.evaluate(features)[1]
            # Of an episode that was cut short, the value of its final observation stands for what it still had to
            # come; the other baselines know of no value, and such an episode counts as far as it went.
            ends = np.cumsum(episodes.lengths) - 1
            rewards[ends] += config.gamma * self.policy.values(episodes.final_obs) * ~episodes.terminated
        rewards_to_go = discounted_returns(episodes.by_time_step(rewards), config.gamma)
        weights = rewards_to_go if config.reward_to_go else np.broadcast_to(rewards_to_go[0], rewards_to_go.shape)
        if config.baseline in ("mean", "time_step"):
            weights = weights - episode_baseline(config.baseline, rewards_to_go)
        return PolicyBatch(
            features=features,
            action=episodes.actions,
            log_prob=None,
            advantages=episodes.by_row(weights) - values,
            returns=episodes.by_row(rewards_to_go),
            values=values,
            action_mask=episodes.action_masks,
        )

    def value(self, obs: Any) -> Array:
        """The values of a batch of observations: (batch,); raises RlkitError unless `baseline=value` learns them."""
        if self.config.baseline != "value":
            raise RlkitError(f"agent.baseline={self.config.baseline} learns no values: agent.baseline=value does")
        return super().value(obs)
