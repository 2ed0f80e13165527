"""Evaluation of an agent: `evaluate_policy` plays whole episodes and returns their returns and lengths."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from rlkit.errors import Misfit, RlkitError, check_range

if TYPE_CHECKING:
    import gymnasium as gym

    Env = gym.Env[Any, Any]

MAX_EPISODE_STEPS = 100_000
"""Steps after which an episode is cut, because without a time limit some agents would never end it."""


class Predictor(Protocol):
    """The interface that an agent needs for evaluation; rlkit's agents and Stable-Baselines3's have it."""

    observation_space: Any
    action_space: Any

    @property
    def predict(self) -> Callable[..., tuple[Any, Any]]:
        """Function (obs, state, episode_start, deterministic) -> actions for a batch of obs, and the next memory."""


@dataclass
class Evaluation:
    """The episodes of one evaluation, in the order of their seeds."""

    returns: list[float]
    """Undiscounted sum of rewards of each episode."""
    lengths: list[int]
    """Number of steps of each episode."""
    num_cut: int = 0
    """Number of episodes that did not end, and were cut."""

    @property
    def return_mean(self) -> float:
        """Mean return over episodes."""
        return math.fsum(self.returns) / len(self.returns)

    @property
    def return_std(self) -> float:
        """Standard deviation of the return over episodes, which is the spread of one agent, not of training runs."""
        mean = self.return_mean
        return math.sqrt(math.fsum((value - mean) ** 2 for value in self.returns) / len(self.returns))

    @property
    def length_mean(self) -> float:
        """Mean length over episodes."""
        return sum(self.lengths) / len(self.lengths)

    def remark(self) -> str:
        """Returns a sentence for the user about episodes that were cut; empty if none was."""
        if not self.num_cut:
            return ""
        return (
            f"{self.num_cut} of {len(self.lengths)} evaluation episodes did not end, and were cut after "
            f"{max(self.lengths):,} steps: the environment sets no time limit"
        )


def evaluate_policy(
    agent: Predictor,
    env: str | Env | Sequence[Env],
    episodes: int = 20,
    *,
    env_kwargs: Mapping[str, Any] | None = None,
    preprocessing: str = "auto",
    num_envs: int = 8,
    seed: int = 0,
    deterministic: bool = True,
    max_episode_steps: int | None = None,
) -> Evaluation:
    """Plays `episodes` whole episodes and returns their undiscounted returns and lengths.

    `env` is an id, an environment, or several equal environments to play in side by side. `env_kwargs`, `preprocessing`
    and `num_envs` are for an id; there are never more environments than episodes. Episode i starts from `seed + i`,
    whatever the number of environments is; the global generators, from which some environments draw, start from `seed`
    and are restored afterwards. Every episode that starts counts, so that short ones weigh no more than long ones. One
    that does not end is cut after MAX_EPISODE_STEPS, or after `max_episode_steps` if the environment says no time limit
    of its own. Action masks are taken from `info["action_mask"]`.
    Raises RlkitError when the environment does not fit the agent, or fails.
    """
    import gymnasium as gym

    check_range("episodes", episodes, 1)
    from rlkit.envs import EnvFactory
    from rlkit.envs.check import check_env
    from rlkit.envs.lifetime import LazyEnvs
    from rlkit.system.seeding import seeded_globally

    def play(envs: Sequence[Env]) -> Evaluation:
        return _play(agent, envs[:episodes], episodes, seed, deterministic, max_episode_steps)

    with seeded_globally(seed):
        if not isinstance(env, str):
            return play([env] if isinstance(env, gym.Env) else env)
        check_range("num_envs", num_envs, 1)
        factory = EnvFactory(env, env_kwargs or {}, preprocessing, training=False)
        with closing(LazyEnvs(factory)) as envs:
            made = envs(min(episodes, num_envs))
            check_env(made[0], factory.id)
            return play(made)


def _play(
    agent: Predictor,
    envs: Sequence[Env],
    episodes: int,
    seed: int,
    deterministic: bool,
    max_episode_steps: int | None,
) -> Evaluation:
    """Plays episode i in environment i modulo the number of environments, and returns all results."""
    import numpy as np

    from rlkit.action_masks import KEY, fitted_masks
    from rlkit.envs.check import checked_reset, checked_step, env_error, env_errors
    from rlkit.envs.lifetime import has_time_limit, name_of, seed_spaces
    from rlkit.spaces import fitted, stacked
    from rlkit.system.seeding import episode_seed

    def reset(env: Env, episode: int) -> tuple[Any, dict[str, Any]]:
        with env_errors(name, "reset"):
            seed_spaces(env, episode_seed(seed, episode))
            return checked_reset(env.reset(seed=episode_seed(seed, episode)))

    limit = MAX_EPISODE_STEPS if max_episode_steps is None or has_time_limit(envs[0]) else max_episode_steps
    num_cut = 0
    space, num_envs = envs[0].observation_space, len(envs)
    name = name_of(envs[0])
    _check_spaces(agent, envs[0], name)
    returns, lengths = [0.0] * episodes, [0] * episodes
    playing = list(range(num_envs))  # the episode that each environment plays
    starts = [reset(env, i) for i, env in enumerate(envs)]
    observations = [obs for obs, _ in starts]
    masks: list[Any] = [info.get(KEY) for _, info in starts]
    episode_start = np.ones(num_envs, dtype=bool)
    state = None
    while min(playing) < episodes:
        # Environments that are done stay in the batch with their last observation, because a recurrent agent's memory
        # has one row per environment.
        try:
            obs = stacked(space, observations)
            allowed = fitted_masks(envs[0].action_space, masks)
            masked = {} if allowed is None else {"action_masks": allowed}
            actions, state = agent.predict(
                obs, state=state, episode_start=episode_start, deterministic=deterministic, **masked
            )
        except Misfit as misfit:  # of an observation, which the agent looks at
            raise env_error(name, f"reset or step returned {misfit}") from misfit
        episode_start = np.zeros(num_envs, dtype=bool)
        with env_errors(name, "step"):
            for i, env in enumerate(envs):
                if (episode := playing[i]) >= episodes:
                    continue
                observations[i], reward, terminated, truncated, info = checked_step(env.step(deepcopy(actions[i])))
                returns[episode] += reward
                lengths[episode] += 1
                if (ended := terminated or truncated) or lengths[episode] == limit:
                    num_cut += not ended
                    if not math.isfinite(returns[episode]):
                        raise RlkitError(f"env {name}: the return of an episode is {returns[episode]}")
                    fitted(space, observations[i])
                    playing[i] += num_envs
                    if playing[i] < episodes:
                        observations[i], info = reset(env, playing[i])
                        episode_start[i] = True
                masks[i] = info.get(KEY) if playing[i] < episodes else None
    return Evaluation(returns, lengths, num_cut)


def _check_spaces(agent: Predictor, env: Env, name: str) -> None:
    """Raises RlkitError unless the environment has the agent's observation and action spaces."""
    if not _fits(agent.observation_space, env.observation_space):
        kind, have, want = "observations", env.observation_space, agent.observation_space
    elif agent.action_space != env.action_space:
        kind, have, want = "actions", env.action_space, agent.action_space
    else:
        return
    raise RlkitError(f"env {name} does not fit the agent: its {kind} are {have}, the agent's are {want}")


def _fits(agent_space: Any, env_space: Any) -> bool:
    """True if two observation spaces are equal, apart from the bounds of their boxes."""
    from gymnasium import spaces

    match agent_space, env_space:
        case spaces.Box(), spaces.Box():
            return bool(agent_space.shape == env_space.shape and agent_space.dtype == env_space.dtype)
        case spaces.Dict(), spaces.Dict():
            return agent_space.keys() == env_space.keys() and all(
                _fits(agent_space[key], env_space[key]) for key in agent_space
            )
        case spaces.Tuple(), spaces.Tuple():
            return len(agent_space) == len(env_space) and all(map(_fits, agent_space, env_space))
    return bool(agent_space == env_space)
