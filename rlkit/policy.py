"""A policy with its critic: acts, values observations, and saves and restores its whole state."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from rlkit.engine.actor_critic import Engine
from rlkit.engine.make import make_model
from rlkit.errors import RlkitError
from rlkit.networks.actor_critic import ActorCritic
from rlkit.networks.array_heads import array_head
from rlkit.networks.heads import Categorical, Gaussian
from rlkit.networks.normalization import RewardNormalizer
from rlkit.spaces import Array, Obs, masked
from rlkit.system.ranks import Ranks


class ActorCriticPolicy:
    """Draws actions, with a generator of its own, from the distributions that an engine computes.

    `model` holds everything that is saved: the network and, if rewards are normalised, the statistics in `rewards`.
    `noise_correlation` ρ makes a Gaussian's noise an AR(1) process along each environment's steps (Korenkevych et
    al. 2019). Its variance stays one, so that the probability of each action by itself is still the policy's.
    """

    def __init__(
        self,
        network: ActorCritic,
        engine: Engine,
        seed: np.random.SeedSequence,
        ranks: Ranks,
        *,
        noise_correlation: float = 0.0,
        rewards: RewardNormalizer | None = None,
    ) -> None:
        self.network, self.engine, self.rewards, self.ranks = network, engine, rewards, ranks
        self.features = network.features
        """The network's own, at hand: a module takes long to look its parts up."""
        self.model = make_model(network=network, rewards=rewards)
        self.array_head = array_head(network.head)
        self._rng = ranks.env_rng(seed)
        self._rho = noise_correlation if isinstance(network.head, Gaussian) else 0.0
        self._noise: Array | None = None

    def act(self, obs: Obs, action_mask: Array | None, explore: bool) -> Array:
        """Draws one action per row, or without `explore` takes the most likely one, in the form that agents store."""
        params, head = self.params(obs, action_mask), self.network.head
        if not explore:
            return head.mode(params)
        return head.sample(params, self._rng, self._correlated_noise(len(params)) if self._rho else None)

    def params(self, obs: Obs, action_mask: Array | None = None) -> Array:
        """Computes the parameters of the action distributions: (batch, num_params).

        Raises RlkitError for an action mask that does not fit the action space.
        """
        params = self.engine.policy(self.features(obs))
        if action_mask is not None and (
            not isinstance(self.network.head, Categorical) or action_mask.shape != params.shape
        ):
            raise RlkitError(
                f"an action mask of shape {action_mask.shape} does not fit the action space: expected {params.shape}, "
                "for Discrete or MultiDiscrete actions"
            )
        return masked(params, action_mask)

    def values(self, obs: Obs) -> Array:
        """Computes the values of observations: (batch,)."""
        return self.engine.evaluate(self.features(obs))[1]

    def probabilities(self, obs: Obs, action_mask: Array | None) -> Array:
        """Computes the probability of each action: (batch, number of actions).

        Raises RlkitError unless the action space is Discrete.
        """
        if not isinstance(self.network.head, Categorical) or self.network.head.multi:
            raise RlkitError("action_probabilities needs a Discrete action space")
        logits = self.params(obs, action_mask)
        weights = np.exp(logits - logits.max(1, keepdims=True))
        probabilities: Array = weights / weights.sum(1, keepdims=True)
        return probabilities

    def state_dict(self) -> dict[str, Any]:
        """Returns weights, statistics, optimiser moments, the generator's state, and the last correlated noise."""
        return {
            "model": {name: tensor.cpu().numpy().copy() for name, tensor in self.model.state_dict().items()},
            "optimizer": self.engine.state_dict(),
            "rng": self._rng.bit_generator.state,
            "noise": None if self._noise is None else self._noise.copy(),
            "running_rewards": None if self.rewards is None else self.rewards.running.copy(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a state that `state_dict` returned."""
        self.model.load_state_dict({name: torch.as_tensor(array) for name, array in state["model"].items()})
        self.engine.load_state_dict(state["optimizer"])
        self._rng.bit_generator.state = state["rng"]
        self._noise = state["noise"]
        if self.rewards is not None:
            self.rewards.running = state["running_rewards"].copy()

    def _correlated_noise(self, rows: int) -> Array:
        assert isinstance(self.network.head, Gaussian)
        fresh = self._rng.standard_normal((rows, self.network.head.num_actions), dtype=np.float32)
        if self._noise is not None and self._noise.shape == fresh.shape:
            fresh = np.float32(self._rho) * self._noise + np.float32(np.sqrt(1 - self._rho**2)) * fresh
        self._noise = fresh
        return fresh
