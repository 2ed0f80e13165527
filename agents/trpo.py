"""Trust region policy optimisation (Schulman et al. 2015): the natural gradient, as far as a KL limit allows.

Read top to bottom: the hyperparameters, the critic's loss, the agent, whose `_improve_policy` is the algorithm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from rlkit.advantages import policy_batch
from rlkit.agents.policy_agent import PolicyAgent
from rlkit.buffers.batch import PolicyBatch
from rlkit.buffers.rollout import RolloutBuffer, minibatch_notes
from rlkit.engine.losses import surrogate, whitened
from rlkit.errors import check_choice, check_fields
from rlkit.maths.returns import explained_variance
from rlkit.maths.schedules import SCHEDULES, scheduled
from rlkit.setting import AgentConfig, Setting
from rlkit.spaces import MASKED_LOGIT, Array

if TYPE_CHECKING:
    from torch import Tensor

    from rlkit.networks.heads import Head

ADAM_EPS = 1e-8


@dataclass
class TRPOConfig(AgentConfig):
    """TRPO's hyperparameters."""

    name: ClassVar[str] = "trpo"
    for_probes: ClassVar[Mapping[str, Any]] = {"num_steps": 32, "learning_rate": 3e-3}

    target_kl: float = 0.01
    """δ, the largest mean KL divergence between the policy before and after an update."""
    num_steps: int = 256
    """Steps per environment in each rollout."""
    gamma: float = 0.99
    """Discount factor."""
    gae_lambda: float = 0.95
    """Generalised advantage estimation: 0 is the TD error, 1 the discounted return less the value."""
    normalize_advantages: bool = True
    """Whiten the advantages of each rollout."""
    normalize_rewards: bool = False
    """Divide rewards by the running standard deviation of the discounted return, and clip them to ±10."""
    cg_iterations: int = 15
    """Conjugate gradient iterations for the direction of the step."""
    cg_damping: float = 0.1
    """Multiple of the identity that is added to the Fisher matrix, which is singular where parameters don't matter."""
    line_search_steps: int = 10
    """Tries: a step that breaks the limit, or gains nothing, is shortened so often before the update gives up."""
    line_search_shrink: float = 0.8
    """The factor that shortens it."""
    learning_rate: float = 1e-3
    """Adam's step size for the value network."""
    learning_rate_schedule: str = "constant"
    """`linear` to zero over the run, or `constant`."""
    critic_epochs: int = 10
    """Passes of the value network over each rollout."""
    minibatch_size: int = 128
    """Transitions per gradient step of the value network; a smaller rollout is one minibatch."""

    def validate(self, num_envs: int) -> None:
        """Raises RlkitError on the first field whose value cannot work."""
        check_choice("agent.learning_rate_schedule", self.learning_rate_schedule, SCHEDULES)
        check_fields(
            self,
            "agent",
            counts=("num_steps", "cg_iterations", "line_search_steps", "critic_epochs", "minibatch_size"),
            positive=("target_kl", "learning_rate", "line_search_shrink"),
            not_negative=("cg_damping",),
            shares=("gamma", "gae_lambda", "line_search_shrink"),
        )


def critic_loss(
    head: Head, params: Tensor, values: Tensor, batch: PolicyBatch, coefficients: None
) -> tuple[Tensor, dict[str, Tensor]]:
    """The mean squared error of the values; the analytic engine's counterpart is `critic_gradient`."""
    del head, params, coefficients
    value_loss = (values - batch.returns).square().mean()
    return value_loss, {"value_loss": value_loss}


class TRPO(PolicyAgent[RolloutBuffer]):
    """Acts by sampling from its policy, and improves it by one long step on each rollout."""

    config: TRPOConfig

    def __init__(self, config: TRPOConfig, setting: Setting) -> None:
        from rlkit.engine.actor_critic import ActorCriticLoss
        from rlkit.engine.descent import Optimization
        from rlkit.engine.native.policy_gradient import critic_gradient

        # The engine acts and fits the critic; the policy's step takes second derivatives, and with them autograd.
        super().__init__(
            config,
            setting,
            ActorCriticLoss(torch=critic_loss, native=critic_gradient),
            Optimization(max_grad_norm=None, eps=ADAM_EPS),
            reward_gamma=config.gamma if config.normalize_rewards else None,
        )
        # Else the critic would move the policy, out of its trust region, through the CNN that they share.
        self.network.critic_trains_cnns = False
        self.steps_per_update = config.num_steps
        num_envs = setting.num_envs * setting.ranks.size
        self.notes = [*self.notes, *minibatch_notes(config.minibatch_size, config.num_steps, num_envs)]

    def make_buffer(self, num_envs: int) -> RolloutBuffer:
        return RolloutBuffer(self.config.num_steps, num_envs)

    def update(self, buffer: RolloutBuffer, progress: float) -> dict[str, float]:
        config = self.config
        batch, rows = policy_batch(buffer, self.policy, config.gamma, config.gae_lambda, old_params=True)
        metrics = self._improve_policy(batch, rows)
        learning_rate = scheduled(config.learning_rate_schedule, config.learning_rate, progress)
        metrics["train/value_loss"] = self._fit_critic(batch, rows, learning_rate)
        metrics["train/explained_variance"] = explained_variance(batch.values[rows], batch.returns[rows])
        metrics["train/learning_rate"] = learning_rate
        # Only now, so that the old and the new policy saw observations through the same statistics.
        self.network.features.update(buffer.flat_obs(), self.ranks, rows)
        buffer.clear()
        return metrics

    def _improve_policy(self, batch: PolicyBatch, rows: Array) -> dict[str, float]:
        """The largest step along the natural gradient that keeps the KL limit and improves the surrogate."""
        import torch

        from rlkit.engine.torch.trust_region import assign, natural_step

        config, head = self.config, self.network.head
        index = torch.as_tensor(rows, device=self.device)
        batch = batch.map(lambda part: torch.as_tensor(part, device=self.device)[index])
        advantages = whitened(batch.advantages, self.ranks) if config.normalize_advantages else batch.advantages

        def objective_and_params() -> tuple[Tensor, Tensor]:
            params = self.network.policy(batch.features)
            if batch.action_mask is not None:
                params = params.masked_fill(~batch.action_mask, float(MASKED_LOGIT))
            return surrogate(head, params, batch, advantages)[0].mean(), params

        parameters = [p for name, p in self.network.named_parameters() if not name.startswith("critic.")]
        objective, params = objective_and_params()
        divergence = head.kl(params.detach(), params).mean()
        limits = config.target_kl, config.cg_iterations, config.cg_damping
        step = natural_step(objective, divergence, parameters, *limits)

        metrics = {"train/policy_loss": -objective.item(), "train/entropy": head.entropy(params).mean().item()}
        before = torch.cat([p.detach().reshape(-1) for p in parameters])
        with torch.no_grad():
            for shortened in range(config.line_search_steps):
                assign(parameters, before + step)
                reached, moved = objective_and_params()
                kl = head.kl(batch.old_params, moved).mean()
                if kl <= config.target_kl and reached > objective:
                    return {**metrics, "train/approx_kl": kl.item(), "train/line_search_steps": float(shortened)}
                step = step * config.line_search_shrink
        assign(parameters, before)
        return {**metrics, "train/approx_kl": 0.0, "train/line_search_steps": float(config.line_search_steps)}

    def _fit_critic(self, batch: PolicyBatch, rows: Array, learning_rate: float) -> float:
        """Moves the values towards the returns; their mean squared error on the way."""
        size = self.config.minibatch_size
        self.engine.load(batch)
        losses = []
        for _ in range(self.config.critic_epochs):
            order = self.rng.permutation(rows)
            for start in range(0, len(order), size):
                losses.append(self.engine.step(order[start : start + size], None, learning_rate)["value_loss"])
        return float(np.mean(losses))
