"""Collecting and learning at the same time: `overlap=true`, for agents with a replay buffer."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import numpy as np
import torch

from rlkit import ranks
from rlkit.agents.base import Agent
from rlkit.buffers.transition import Transition
from rlkit.collector import Episode
from rlkit.trainer import Trainer


class Shelf:
    """Keeps transitions for a buffer that must not change yet."""

    def __init__(self) -> None:
        self._steps: list[Transition] = []

    def add(self, step: Transition) -> None:
        """Keeps one vector step."""
        self._steps.append(step)

    def empty_into(self, buffer: Any) -> None:
        """Adds all of them, the oldest first."""
        for step in self._steps:
            buffer.add(step)
        self._steps.clear()


class OverlappingTrainer(Trainer):
    """The same loop, in which a thread learns while this one collects; everything else waits for both.

    What is collected is acted by the parameters that the update before last left behind, and learned from one update
    later: update k finds transitions of the first k - 1 rounds in the buffer, and round k acts as update k - 1 has it.
    The two meet after each round, so the same seed gives the same run, though not that of `overlap=false`.
    """

    def __init__(self, actor: Agent, *args: Any) -> None:
        """`actor` is another agent of the same kind, which acts; `args` are Trainer's."""
        super().__init__(*args)
        self._actor, self._shelf = actor, Shelf()
        ours, theirs = (list(agent.model.state_dict().values()) for agent in (actor, self.agent))
        self._pairs = list(zip(ours, theirs, strict=True))

    def train(self) -> None:
        """The loop, with a thread at its side."""
        with ThreadPoolExecutor(1, "learner") as self._learner:
            super().train()

    def learn(self) -> tuple[list[Episode], dict[str, float]]:
        """Collects a round and, meanwhile, updates once: the episodes that ended, and the update's metrics."""
        with torch.no_grad():
            for ours, theirs in self._pairs:
                ours.copy_(theirs)
        update = self._learner.submit(self._update, self.spent)
        try:
            episodes = self.collector.collect(self._actor, self._shelf, self.agent.steps_per_update)
        finally:
            wait([update])  # whoever saves after Ctrl-C finds no parameters that are just moving
        metrics = update.result()
        self._shelf.empty_into(self.buffer)
        self.timesteps = ranks.steps(self.collector.timesteps)
        return episodes, metrics

    def _update(self, progress: float) -> dict[str, float]:
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            return self.agent.update(self.buffer, progress)
