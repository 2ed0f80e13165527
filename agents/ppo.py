"""Proximal policy optimisation (Schulman et al. 2017): clipped, with a KL penalty, or with an adaptive one.

Read top to bottom: the hyperparameters, the loss, the agent. The 37 details that make PPO work (Huang et al. 2022)
are listed with their places in docs/ppo-details.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from rlkit.advantages import policy_batch
from rlkit.agents.policy_agent import PolicyAgent
from rlkit.buffers.batch import PolicyBatch
from rlkit.buffers.rollout import RolloutBuffer, minibatch_notes
from rlkit.engine.losses import mean_metrics, surrogate, whitened
from rlkit.errors import check_choice, check_fields
from rlkit.maths.returns import explained_variance
from rlkit.maths.schedules import SCHEDULES, scheduled
from rlkit.setting import Abilities, AgentConfig, Setting
from rlkit.spaces import Array, masked

if TYPE_CHECKING:
    from torch import Tensor

    from rlkit.networks.heads import Head
    from rlkit.system.ranks import Ranks

OBJECTIVES = ("clip", "kl", "adaptive_kl")


@dataclass
class PPOConfig(AgentConfig):
    """PPO's hyperparameters."""

    name: ClassVar[str] = "ppo"
    abilities: ClassVar[Abilities] = Abilities(shared_fields=("minibatch_size",))
    for_probes: ClassVar[Mapping[str, Any]] = {
        "num_steps": 32,
        "minibatch_size": 64,
        "num_epochs": 8,
        "learning_rate": 3e-3,
        "ent_coef": 0.01,
    }

    objective: str = "clip"
    """`clip`: the clipped surrogate (PPO2); `kl`: the surrogate less `kl_coef` times the KL divergence from the
    policy that collected the rollout; `adaptive_kl`: the same with `kl_coef` steered towards `kl_target`."""
    learning_rate: float = 3e-4
    """Adam's step size."""
    critic_learning_rate: float | None = None
    """Adam's step size for the value network, but for layers that it shares with the policy; null: learning_rate."""
    learning_rate_schedule: str = "linear"
    """`linear` to zero over the run, or `constant`."""
    num_steps: int = 128
    """Steps per environment in each rollout."""
    minibatch_size: int = 256
    """Transitions per gradient step; a smaller rollout is one minibatch."""
    num_epochs: int = 10
    """Passes over each rollout."""
    gamma: float = 0.99
    """Discount factor."""
    gae_lambda: float = 0.95
    """Generalised advantage estimation: 0 is the TD error, 1 the discounted return less the value."""
    clip_coef: float = 0.2
    """`clip` only: the ratio of new to old probability counts within 1 ± this."""
    clip_coef_schedule: str = "constant"
    """`linear` to zero over the run, or `constant`."""
    clip_value_coef: float | None = None
    """Keep the new value within ± this of the rollout's value in the value loss; null: no such limit."""
    kl_coef: float = 1.0
    """`kl`: the weight β of the KL penalty; `adaptive_kl`: β at the start."""
    kl_target: float = 0.01
    """`adaptive_kl` only: β doubles after an update whose KL is above 1.5 times this, and halves below a 1.5th."""
    target_kl: float | None = None
    """Stop an update's remaining epochs once the approximate KL passes 1.5 times this; null: never."""
    ent_coef: float = 0.0
    """Weight of the entropy bonus."""
    vf_coef: float = 0.5
    """Weight of the value loss (the mean squared error)."""
    max_grad_norm: float | None = 0.5
    """Gradients are scaled down to this global norm; null: not at all."""
    normalize_advantages: bool = True
    """Whiten the advantages of each minibatch."""
    normalize_rewards: bool = False
    """Divide rewards by the running standard deviation of the discounted return, and clip them to ±10."""
    adam_eps: float = 1e-5
    """Adam's ε."""
    noise_correlation: float = 0.0
    """Box actions: correlation ρ of the exploration noise between an environment's successive steps (an AR(1)
    process of unit variance); 0 is white noise. Smooth noise explores where single pushes cancel out."""

    def validate(self, num_envs: int) -> None:
        """Raises RlkitError on the first field whose value cannot work."""
        check_choice("agent.objective", self.objective, OBJECTIVES)
        check_choice("agent.learning_rate_schedule", self.learning_rate_schedule, SCHEDULES)
        check_choice("agent.clip_coef_schedule", self.clip_coef_schedule, SCHEDULES)
        check_fields(
            self,
            "agent",
            counts=("num_steps", "minibatch_size", "num_epochs"),
            positive=("learning_rate", "clip_coef", "clip_value_coef", "kl_target", "target_kl", "max_grad_norm"),
            not_negative=("critic_learning_rate", "kl_coef", "ent_coef", "vf_coef", "adam_eps"),
            shares=("gamma", "gae_lambda", "noise_correlation"),
        )


class PPOCoefficients(NamedTuple):
    """The hyperparameters that the loss depends on, as scheduled and adapted."""

    objective: str
    clip_coef: float
    kl_coef: float
    clip_value_coef: float | None
    ent_coef: float
    vf_coef: float
    normalize_advantages: bool
    ranks: Ranks
    """Advantages are whitened over all of them."""


def ppo_loss(
    head: Head, params: Tensor, values: Tensor, batch: PolicyBatch, c: PPOCoefficients
) -> tuple[Tensor, dict[str, Tensor]]:
    """PPO's loss on a minibatch, and its parts (eqs. 7, 8 and 9 of the paper).

    `params` (rows, num_params) and `values` (rows,) are the network's outputs now; `batch` holds what they were.
    The analytic engine computes this function's derivatives in `rlkit.engine.native.policy_gradient`.
    """
    advantages = whitened(batch.advantages, c.ranks) if c.normalize_advantages else batch.advantages
    objective, log_ratio = surrogate(head, params, batch, advantages)
    ratio = log_ratio.exp()
    if c.objective == "clip":
        objective = objective.minimum(ratio.clamp(1 - c.clip_coef, 1 + c.clip_coef) * advantages)
    else:
        objective = objective - c.kl_coef * head.kl(batch.old_params, params)
    policy_loss = -objective.mean()

    squares = (values - batch.returns).square()
    if c.clip_value_coef is not None:
        moved = (values - batch.values).clamp(-c.clip_value_coef, c.clip_value_coef)
        squares = squares.maximum((batch.values + moved - batch.returns).square())
    value_loss = squares.mean()

    entropy = head.entropy(params).mean()
    loss = policy_loss - c.ent_coef * entropy + c.vf_coef * value_loss
    return loss, {
        "policy_loss": policy_loss,
        "value_loss": value_loss,
        "entropy": entropy,
        "approx_kl": (ratio - 1 - log_ratio).mean(),  # unbiased and never negative: Schulman's third estimator
        "clip_fraction": ((ratio - 1).abs() > c.clip_coef).float().mean(),
    }


def adapted_kl_coef(kl_coef: float, kl: float, kl_target: float) -> float:
    """The next update's β: doubled after too large a KL divergence, halved after too small a one (section 4)."""
    if kl > 1.5 * kl_target:
        return 2 * kl_coef
    return kl_coef / 2 if kl < kl_target / 1.5 else kl_coef


class PPO(PolicyAgent[RolloutBuffer]):
    """Acts by sampling from its policy, and improves it for a few epochs on each rollout."""

    config: PPOConfig

    def __init__(self, config: PPOConfig, setting: Setting) -> None:
        from rlkit.engine.actor_critic import ActorCriticLoss
        from rlkit.engine.descent import Optimization
        from rlkit.engine.native.policy_gradient import ppo_gradient

        critic_learning_rate = config.critic_learning_rate
        super().__init__(
            config,
            setting,
            ActorCriticLoss(torch=ppo_loss, native=ppo_gradient),
            Optimization(
                max_grad_norm=config.max_grad_norm,
                eps=config.adam_eps,
                critic_rate=1.0 if critic_learning_rate is None else critic_learning_rate / config.learning_rate,
            ),
            reward_gamma=config.gamma if config.normalize_rewards else None,
            noise_correlation=config.noise_correlation,
        )
        self.steps_per_update = config.num_steps
        num_envs = setting.num_envs * setting.ranks.size
        self.notes = [*self.notes, *minibatch_notes(config.minibatch_size, config.num_steps, num_envs)]
        self.kl_coef = config.kl_coef

    def make_buffer(self, num_envs: int) -> RolloutBuffer:
        return RolloutBuffer(self.config.num_steps, num_envs)

    def update(self, buffer: RolloutBuffer, progress: float) -> dict[str, float]:
        config = self.config
        keep_params = config.objective != "clip"
        batch, rows = policy_batch(buffer, self.policy, config.gamma, config.gae_lambda, old_params=keep_params)
        learning_rate = scheduled(config.learning_rate_schedule, config.learning_rate, progress)
        coefficients = self._coefficients(progress)
        minibatch_size = self.ranks.per_rank(config.minibatch_size)
        self.engine.load(batch)
        history = []
        for _ in range(config.num_epochs):
            order = self.rng.permutation(rows)
            for start in range(0, len(order), minibatch_size):
                minibatch = order[start : start + minibatch_size]
                history.append(self.engine.step(minibatch, coefficients, learning_rate))
            if config.target_kl is not None and self.ranks.mean(history[-1]["approx_kl"]) > 1.5 * config.target_kl:
                break
        metrics = mean_metrics(history)
        metrics["train/explained_variance"] = explained_variance(batch.values[rows], batch.returns[rows])
        metrics["train/learning_rate"] = learning_rate
        if config.objective == "adaptive_kl":
            metrics["train/kl"] = self._mean_kl(batch, rows)
            metrics["train/kl_coef"] = self.kl_coef
            self.kl_coef = adapted_kl_coef(self.kl_coef, metrics["train/kl"], config.kl_target)
        # Only now, so that the old and the new policy saw observations through the same statistics.
        self.network.features.update(buffer.flat_obs(), self.ranks, rows)
        buffer.clear()
        return metrics

    def _coefficients(self, progress: float) -> PPOCoefficients:
        config = self.config
        return PPOCoefficients(
            config.objective,
            scheduled(config.clip_coef_schedule, config.clip_coef, progress),
            self.kl_coef,
            config.clip_value_coef,
            config.ent_coef,
            config.vf_coef,
            config.normalize_advantages,
            self.ranks,
        )

    def _mean_kl(self, batch: PolicyBatch, rows: Array) -> float:
        """KL(old || new) over the rollout, after the update."""
        params = masked(self.engine.evaluate(batch.features)[0], batch.action_mask)
        kl = self.policy.array_head.evaluate(params, batch.action, batch.old_params).kl
        assert kl is not None
        return self.ranks.mean(float(kl[rows].mean()))

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "kl_coef": self.kl_coef}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.kl_coef = state["kl_coef"]
