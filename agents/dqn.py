"""Deep Q-learning (Mnih et al. 2015) with the parts of Rainbow (Hessel et al. 2018), each a field of its own.

Read top to bottom: the hyperparameters, the next values, the agent; its `_learn` and `_targets` are the algorithm. The
losses are in `rlkit.engine.losses`, the targets in `rlkit.maths.returns`, the replay buffers in `rlkit/buffers/`, the
ε-greedy policy in `rlkit.maths.exploration`, noisy layers in `rlkit.networks.noisy`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces

from rlkit.agents.base import Agent, discrete_actions
from rlkit.buffers.batch import ReplayBatch
from rlkit.buffers.replay import ReplayBuffer
from rlkit.collector import Step
from rlkit.engine.losses import categorical_loss, dqn_loss, mean_metrics
from rlkit.errors import RlkitError, check_choice, check_fields
from rlkit.field_groups import AtomsConfig, EpisodicEpsilonConfig, ReplayConfig, TargetConfig
from rlkit.maths.exploration import epsilon_greedy, sample_epsilon_greedy
from rlkit.maths.returns import next_values, project_distribution, td_targets
from rlkit.maths.schedules import SCHEDULES, scheduled
from rlkit.setting import Abilities, AgentConfig, Setting
from rlkit.spaces import Array, Obs, as_batch, masked, shifted

LOSSES = ("huber", "mse")
DUELINGS = ("mean", "sum")
UNITS = ("update", "episode")


@dataclass
class DQNConfig(AgentConfig):
    """DQN's hyperparameters; for Discrete actions."""

    name: ClassVar[str] = "dqn"
    abilities: ClassVar[Abilities] = Abilities(shared_fields=("minibatch_size",))
    for_probes: ClassVar[Mapping[str, Any]] = {
        "learning_rate": 3e-3,
        "gradient_steps": 16,
        "learning_starts": 200,
        "target": {"interval": 50},
        "atoms": {"v_min": -10.0, "v_max": 10.0},
    }
    renamed: ClassVar[Mapping[str, str]] = {
        "buffer_size": "replay.size",
        "buffer_dir": "replay.folder",
        "buffer_device": "replay.device",
        "prioritized": "replay.prioritized",
        "priority_alpha": "replay.alpha",
        "priority_beta": "replay.beta",
        "epsilon_start": "epsilon.start",
        "epsilon_end": "epsilon.end",
        "epsilon_schedule": "epsilon.schedule",
        "exploration_fraction": "epsilon.fraction",
        "epsilon_episodes": "epsilon.episodes",
        "target_update_interval": "target.interval",
        "tau": "target.tau",
        "num_atoms": "atoms.count",
        "v_min": "atoms.v_min",
        "v_max": "atoms.v_max",
    }

    double: bool = False
    """Double DQN (van Hasselt et al. 2016): the online network chooses the next action that the target network
    values. The target network's own maximum is biased upwards by its noise."""
    dueling: bool = False
    """The network's outputs are the state's value and the actions' advantages (Wang et al. 2016)."""
    dueling_advantage: str = "mean"
    """`dueling` only: `mean` subtracts the mean advantage, which leaves one way to divide Q into V and A; `sum` adds
    the advantages as they are."""
    n_step: int = 1
    """Rewards in each target before the next value. More than one see further, and are off-policy."""
    noisy: bool = False
    """Explore by learned noise in the network's weights (Fortunato et al. 2018), drawn anew for every action and
    gradient step; evaluation is without it. ε is 0 unless epsilon.start is given."""
    noisy_std: float = 0.5
    """`noisy` only: the noise's initial size, as a multiple of 1/√inputs of each layer."""
    distributional: bool = False
    """Learn how probable each of the `atoms` is instead of only their mean (C51, Bellemare et al. 2017)."""
    atoms: AtomsConfig = field(default_factory=AtomsConfig)
    learning_rate: float = 1e-4
    """Adam's step size."""
    learning_rate_schedule: str = "constant"
    """`linear` to zero over the run, or `constant`."""
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    learning_starts: int = 1000
    """Transitions to collect before the first gradient step; at most replay.size."""
    num_steps: int = 4
    """Steps per environment between updates."""
    gradient_steps: int = 8
    """Gradient steps in each update."""
    gradient_steps_per: str = "update"
    """`episode`: take them for each episode that has ended since the last update instead."""
    minibatch_size: int = 64
    """Transitions per gradient step."""
    target: TargetConfig = field(default_factory=TargetConfig)
    gamma: float = 0.99
    """Discount factor."""
    epsilon: EpisodicEpsilonConfig = field(default_factory=EpisodicEpsilonConfig)
    loss: str = "huber"
    """`huber`: half the squared TD error up to 1, linear beyond; `mse`: the squared TD error. `distributional` has
    the cross-entropy instead."""
    reward_scale: float = 1.0
    """Rewards are learned from as multiples of this."""
    max_grad_norm: float | None = 10.0
    """Gradients are scaled down to this global norm; null: not at all."""
    adam_eps: float = 1e-8
    """Adam's ε."""

    def validate(self, num_envs: int) -> None:
        """Raises RlkitError on the first field whose value cannot work."""
        check_choice("agent.dueling_advantage", self.dueling_advantage, DUELINGS)
        check_choice("agent.loss", self.loss, LOSSES)
        check_choice("agent.gradient_steps_per", self.gradient_steps_per, UNITS)
        check_choice("agent.learning_rate_schedule", self.learning_rate_schedule, SCHEDULES)
        check_fields(
            self,
            "agent",
            counts=("n_step", "learning_starts", "num_steps", "gradient_steps", "minibatch_size"),
            positive=("learning_rate", "max_grad_norm", "reward_scale", "noisy_std"),
            not_negative=("adam_eps",),
            shares=("gamma",),
        )
        self.replay.validate("agent.replay")
        self.epsilon.validate("agent.epsilon")
        self.target.validate("agent.target")
        self.atoms.validate("agent.atoms")
        if self.replay.size < (least := max(self.learning_starts, 2 * num_envs)):
            raise RlkitError(
                f"agent.replay.size={self.replay.size} is too small for agent.learning_starts={self.learning_starts} "
                f"and num_envs={num_envs}: it must be at least {least}"
            )

    def steps_without_learning(self) -> int:
        return self.learning_starts


class DQN(Agent[ReplayBuffer]):
    """Acts ε-greedily by its action values, and learns them from a replay buffer."""

    action_spaces = (spaces.Discrete,)

    config: DQNConfig

    def __init__(self, config: DQNConfig, setting: Setting) -> None:
        # Imported here so that reading DQNConfig, as the command line does for --help, does not import torch.
        import torch

        from rlkit.engine.descent import Optimization
        from rlkit.engine.make import make_model, make_q_engine, make_q_network
        from rlkit.engine.native.q import dqn_gradient
        from rlkit.engine.q import QLoss

        super().__init__(config, setting)
        self._actions = discrete_actions(config.name, setting.action_space)
        self.steps_per_update = config.num_steps
        init_seed, act_seed, sample_seed = np.random.SeedSequence(setting.seed).spawn(3)
        self._atoms = config.atoms.values() if config.distributional else None
        self.network, self.device = make_q_network(
            setting,
            int(self._actions.n),
            init_seed,
            dueling=config.dueling_advantage if config.dueling else "none",
            noisy_std=config.noisy_std if config.noisy else None,
            atoms=self._atoms,
        )
        self.engine, self.compute = make_q_engine(
            self.network,
            QLoss(categorical_loss) if config.distributional else QLoss(dqn_loss, dqn_gradient),
            Optimization(config.max_grad_norm, config.adam_eps),
            setting,
        )
        self.model = make_model(network=self.network)
        epsilon = torch.tensor(self._scheduled_epsilon(0.0, 0), dtype=torch.float64)
        self.model.register_buffer("epsilon", epsilon)  # saved, so that a loaded agent explores as it did
        self._epsilon: Array = epsilon.numpy()
        self._act_rng, self._sample_rng = self.ranks.env_rng(act_seed), self.ranks.own_rng(sample_seed)
        self._gradient_steps = self._episodes = 0

    @property
    def epsilon(self) -> float:
        """The probability of a random action."""
        return float(self._epsilon)

    def make_buffer(self, num_envs: int) -> ReplayBuffer:
        from rlkit.buffers.make import make_replay_buffer

        config = self.config
        buffer, self.notes = make_replay_buffer(
            config.replay,
            self.observation_space,
            self._actions,
            num_envs,
            images=self.network.features.images,
            device=next(self.network.parameters()).device,
            ranks=self.ranks,
            n_step=config.n_step,
            gamma=config.gamma,
        )
        return buffer

    def act(self, obs: Obs, *, action_mask: Array | None = None, explore: bool = True) -> Step:
        q_values = self.engine.q_values(self.network.features(obs), noise=self._sample_rng if explore else None)
        if action_mask is not None and action_mask.shape != q_values.shape:
            raise RlkitError(
                f"an action mask of shape {action_mask.shape} does not fit the action space: expected {q_values.shape}"
            )
        if explore:
            action = sample_epsilon_greedy(q_values, self.epsilon, action_mask, self._act_rng)
        else:
            action = masked(q_values, action_mask).argmax(1)
        return Step(action, shifted(self._actions, action))

    def update(self, buffer: ReplayBuffer, progress: float) -> dict[str, float]:
        config = self.config
        by_episodes = config.epsilon.episodes is not None or config.gradient_steps_per == "episode"
        episodes = self.ranks.episodes(buffer.episodes) if by_episodes else 0
        self._epsilon[()] = self._scheduled_epsilon(progress, episodes)
        if self.network.features.statistics is not None:
            self.network.features.update(buffer.recent_obs(config.num_steps), self.ranks)
        metrics = {"train/epsilon": self.epsilon}
        due = episodes - self._episodes if config.gradient_steps_per == "episode" else 1
        self._episodes = episodes
        if self.ranks.steps(buffer.added) < config.learning_starts or due < 1:
            return metrics
        learning_rate = scheduled(config.learning_rate_schedule, config.learning_rate, progress)
        history = self._learn(buffer, due * config.gradient_steps, learning_rate, progress)
        metrics |= mean_metrics(history)
        metrics["train/learning_rate"] = learning_rate
        return metrics

    def _learn(self, buffer: ReplayBuffer, steps: int, learning_rate: float, progress: float) -> list[dict[str, float]]:
        """Takes gradient steps on transitions from the buffer; the target network follows now and then.

        Returns each step's metrics.
        """
        config, rng, size = self.config, self._sample_rng, self.ranks.per_rank(self.config.minibatch_size)
        history: list[dict[str, float]] = []
        while (left := steps - len(history)) > 0:
            steps_since_target = self._gradient_steps % config.target.interval
            if steps_since_target == 0:
                self.engine.update_target(config.target.tau if self._gradient_steps else 1.0)
            count = min(left, config.target.interval - steps_since_target)
            minibatches = self.engine.minibatches(
                buffer, count, size, self._targets, double=config.double, progress=progress, rng=rng
            )
            for batch, rows in minibatches:
                errors, metrics = self.engine.step(batch, config.loss, learning_rate, noise=rng)
                buffer.update_priorities(rows, errors)
                metrics["td_error"] = float(np.abs(errors).sum()) / size
                history.append(metrics)
                self._gradient_steps += 1
        return history

    def _targets(self, batch: ReplayBatch, outputs: Array, online: Array | None) -> Array:
        """Computes the targets of a batch: r + γ^n Q(s', a'), or a distribution of them, with the best next action a'.

        `outputs` are the target network's for s', which value a'. They also choose it, unless Double DQN has the
        `online` network's action values for that.
        """
        valuing = outputs if self._atoms is None else np.exp(outputs)
        choosing = online
        if choosing is None:
            choosing = valuing if self._atoms is None else valuing @ self._atoms
        values = next_values(choosing, valuing, batch.next_action_mask)
        rewards = batch.reward * self.config.reward_scale
        if self._atoms is None:
            targets = td_targets(rewards, values, batch.terminated, batch.gamma)
        else:
            targets = project_distribution(rewards, values, batch.terminated, batch.gamma, self._atoms)
        return targets.astype(np.float32, copy=False)

    def _scheduled_epsilon(self, progress: float, episodes: int) -> float:
        by_noise = self.config.noisy and self.config.epsilon.start is None
        return 0.0 if by_noise else self.config.epsilon.at(progress, episodes)

    def q_values(self, obs: Any) -> Array:
        """The values of all actions for a batch of observations: (batch, number of actions)."""
        return self.engine.q_values(self.network.features(as_batch(self.observation_space, obs)[0])).copy()

    def value(self, obs: Any) -> Array:
        """The values of the best actions for a batch of observations: (batch,)."""
        best: Array = self.q_values(obs).max(1)
        return best

    def action_probabilities(self, obs: Any, action_masks: Array | None = None) -> Array:
        """The probabilities of the ε-greedy policy for a batch of observations: (batch, number of actions)."""
        return epsilon_greedy(self.q_values(obs), self.epsilon, action_masks)

    def state_dict(self) -> dict[str, Any]:
        return {
            "model": {name: tensor.cpu().numpy().copy() for name, tensor in self.model.state_dict().items()},
            "engine": self.engine.state_dict(),
            "act_rng": self._act_rng.bit_generator.state,
            "sample_rng": self._sample_rng.bit_generator.state,
            "gradient_steps": self._gradient_steps,
            "episodes": self._episodes,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        import torch

        self.model.load_state_dict({name: torch.as_tensor(array) for name, array in state["model"].items()})
        self.engine.load_state_dict(state["engine"])
        self._act_rng.bit_generator.state = state["act_rng"]
        self._sample_rng.bit_generator.state = state["sample_rng"]
        self._gradient_steps, self._episodes = state["gradient_steps"], state["episodes"]
