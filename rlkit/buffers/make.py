"""Makes the replay buffer that a config describes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from gymnasium import spaces

from rlkit.buffers.device import place_images
from rlkit.buffers.prioritized import PrioritizedReplayBuffer
from rlkit.buffers.replay import ReplayBuffer
from rlkit.field_groups import ReplayConfig
from rlkit.system.ranks import Ranks
from rlkit.system.user_paths import user_path


def make_replay_buffer(
    config: ReplayConfig,
    observation_space: spaces.Space[Any],
    action_space: spaces.Discrete[Any],
    num_envs: int,
    *,
    images: Sequence[int],
    device: torch.device,
    ranks: Ranks,
    n_step: int,
    gamma: float,
) -> tuple[ReplayBuffer, list[str]]:
    """Makes this rank's share of a replay buffer; returns notes for the user on where it keeps images, too.

    `images` are the numbers of the observation's leaves that the network, which is on `device`, takes as images.
    """
    size, folder = ranks.per_rank(config.size), None if config.folder is None else user_path(config.folder)
    placement = place_images(config.device, device, images, observation_space, size, folder)
    notes = [placement.note] if placement.note else []
    sizes = size, num_envs, observation_space, action_space
    if not config.prioritized:
        return ReplayBuffer(*sizes, n_step=n_step, gamma=gamma, folder=folder, images=placement), notes
    buffer = PrioritizedReplayBuffer(
        *sizes,
        n_step=n_step,
        gamma=gamma,
        folder=folder,
        images=placement,
        alpha=config.alpha,
        beta=config.beta,
        ranks=ranks,
    )
    return buffer, notes
