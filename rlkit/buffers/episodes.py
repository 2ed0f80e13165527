"""The episode buffer: collects vector steps and hands out whole episodes, for agents that need returns to the end."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, NamedTuple

import numpy as np

from rlkit.buffers.transition import Transition, stacked_steps, unstacked_steps
from rlkit.errors import RlkitError
from rlkit.spaces import Array, Obs

LONGEST_EPISODE = 100_000
"""Steps after which an episode counts as endless: waiting for its end would fill the memory and never learn."""


class Episodes(NamedTuple):
    """Finished episodes: one row per step, episode after episode, and one entry per episode."""

    obs: Obs
    actions: Array
    rewards: Array
    action_masks: Array | None
    lengths: Array
    """Steps of each episode; their sum is the number of rows."""
    terminated: Array
    """False where the episode was cut short: the value of its final observation still counts."""
    final_obs: Obs

    def by_time_step(self, rows: Array) -> Array:
        """Arranges (rows,) as (longest episode, episodes), with zeros after an episode's end."""
        table = np.zeros((len(self.lengths), self.lengths.max()), rows.dtype)
        table[self._present()] = rows
        return table.T

    def by_row(self, table: Array) -> Array:
        """Arranges the result of `by_time_step` as (rows,) again."""
        rows: Array = table.T[self._present()]
        return rows

    def _present(self) -> Array:
        present: Array = np.arange(self.lengths.max()) < self.lengths[:, None]
        return present


class EpisodeBuffer:
    """Keeps each environment's steps until its episode ends; every episode is handed out once, and whole.

    Episodes that are still going when others are taken stay, and are learned from later. To drop them would leave
    out long episodes more often than short ones, an error that no small learning rate mends.
    """

    def __init__(self, num_envs: int) -> None:
        self._steps: list[Transition] = []
        self._starts = [0] * num_envs
        self._finished: list[_Finished] = []

    def __len__(self) -> int:
        """The number of finished episodes."""
        return len(self._finished)

    def add(self, step: Transition) -> None:
        """Stores one vector step; raises RlkitError once an episode seems endless."""
        step = step.kept()
        self._steps.append(step._replace(reward=step.reward.astype(np.float32, copy=False)))
        now = len(self._steps)
        for env in np.flatnonzero(~step.valid):
            self._starts[env] = now
        for env in np.flatnonzero(step.terminated | step.truncated):
            last = step.final_obs.get(int(env)) or tuple(leaf[env] for leaf in step.next_obs)
            self._finished.append(_Finished(int(env), self._starts[env], now, bool(step.terminated[env]), last))
            self._starts[env] = now
        if now - min(self._starts) > LONGEST_EPISODE:
            raise RlkitError(
                f"an episode has not ended after {LONGEST_EPISODE:,} steps, and this agent learns from whole episodes; "
                "give the environment a time limit, or use an agent that needs no end: agent=ppo or agent=a2c"
            )

    def take(self) -> Episodes:
        """Hands out all finished episodes, at least one, and forgets them."""
        finished, steps = self._finished, self._steps
        t = np.concatenate([np.arange(episode.start, episode.stop) for episode in finished])
        env = np.concatenate([np.full(episode.stop - episode.start, episode.env) for episode in finished])
        known = next((step.action_mask for step in steps if step.action_mask is not None), None)
        masks = [np.ones_like(known) if step.action_mask is None else step.action_mask for step in steps]
        episodes = Episodes(
            obs=tuple(np.stack(leaf)[t, env] for leaf in zip(*(step.obs for step in steps), strict=True)),
            actions=np.stack([step.action for step in steps])[t, env],
            rewards=np.stack([step.reward for step in steps])[t, env],
            action_masks=None if known is None else np.stack(masks)[t, env],
            lengths=np.array([episode.stop - episode.start for episode in finished]),
            terminated=np.array([episode.terminated for episode in finished]),
            final_obs=tuple(np.stack(leaf) for leaf in zip(*(episode.final_obs for episode in finished), strict=True)),
        )
        first = min(self._starts)
        self._steps, self._starts = steps[first:], [start - first for start in self._starts]
        self._finished = []
        return episodes

    def cut_off(self, envs: list[int]) -> None:
        """Forgets the open episodes of these environments."""
        for env in envs:
            self._starts[env] = len(self._steps)

    def state_dict(self) -> dict[str, Any]:
        """All steps of episodes that were not taken yet, as copies."""
        finished = [{**episode._asdict(), "final_obs": list(episode.final_obs)} for episode in self._finished]
        return {"steps": stacked_steps(self._steps), "starts": list(self._starts), "finished": deepcopy(finished)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a state that `state_dict` returned."""
        self._steps = unstacked_steps(state["steps"])
        self._starts = list(state["starts"])
        self._finished = [
            _Finished(**{**episode, "final_obs": tuple(episode["final_obs"])})
            for episode in deepcopy(state["finished"])
        ]


class _Finished(NamedTuple):
    """The place of a finished episode's steps: those of environment `env` from `start` up to `stop`."""

    env: int
    start: int
    stop: int
    terminated: bool
    final_obs: Obs
