"""Agents that act by a policy with a critic: the parts that all of them share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from rlkit.agents.base import Agent
from rlkit.buffers.transition import BufferT
from rlkit.collector import Step
from rlkit.setting import AgentConfig, Setting
from rlkit.spaces import Array, Obs, as_batch

if TYPE_CHECKING:
    from rlkit.engine.actor_critic import ActorCriticLoss
    from rlkit.engine.descent import Optimization


class PolicyAgent(Agent[BufferT]):
    """Acts by sampling from a policy; a subclass brings its config, its loss, its buffer, and `update`."""

    def __init__(
        self,
        config: AgentConfig,
        setting: Setting,
        loss: ActorCriticLoss,
        optimization: Optimization,
        *,
        reward_gamma: float | None = None,
        noise_correlation: float = 0.0,
    ) -> None:
        """Makes the network, the engine that improves it on `loss`, and the policy.

        Rewards are normalised by the returns discounted with `reward_gamma`; None: not at all. For `noise_correlation`
        see `rlkit.policy`.
        """
        # Imported here so that reading a config, as the command line does for --help, does not import torch.
        from rlkit.engine.make import make_actor_critic, make_engine
        from rlkit.networks.normalization import RewardNormalizer
        from rlkit.policy import ActorCriticPolicy

        super().__init__(config, setting)
        init_seed, act_seed, update_seed = np.random.SeedSequence(setting.seed).spawn(3)
        self.network, self.device = make_actor_critic(setting, init_seed)
        self.engine, self.compute = make_engine(self.network, loss, optimization, setting)
        rewards = None if reward_gamma is None else RewardNormalizer(reward_gamma, setting.num_envs)
        self.policy = ActorCriticPolicy(
            self.network, self.engine, act_seed, setting.ranks, noise_correlation=noise_correlation, rewards=rewards
        )
        self.model = self.policy.model
        self.rng = setting.ranks.own_rng(update_seed)
        """The generator of updates, which draws minibatches."""

    def act(self, obs: Obs, *, action_mask: Array | None = None, explore: bool = True) -> Step:
        action = self.policy.act(obs, action_mask, explore)
        return Step(action, self.network.head.env_action(action))

    def value(self, obs: Any) -> Array:
        """The values of a batch of observations: (batch,)."""
        return self.policy.values(as_batch(self.observation_space, obs)[0])

    def action_probabilities(self, obs: Any, action_masks: Array | None = None) -> Array:
        """The probability of each action for a batch of observations: (batch, number of actions).

        Raises RlkitError unless the action space is Discrete.
        """
        return self.policy.probabilities(as_batch(self.observation_space, obs)[0], action_masks)

    def state_dict(self) -> dict[str, Any]:
        return {"policy": self.policy.state_dict(), "rng": self.rng.bit_generator.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.policy.load_state_dict(state["policy"])
        self.rng.bit_generator.state = state["rng"]
