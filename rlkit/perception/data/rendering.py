"""Frames of Gymnasium's environments, rendered or observed, labelled by the environment."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlkit.errors import RlkitError, check_range
from rlkit.perception.data.samples import Data, image_data, split

ENVIRONMENTS = ("Acrobot-v1", "CartPole-v1", "CliffWalking-v1", "MountainCar-v0", "Pendulum-v1")


def frames(
    *,
    envs: Sequence[str] = ENVIRONMENTS,
    count: int = 200,
    image_size: int = 64,
    every: int = 4,
    observed: bool = False,
    seed: int = 0,
    validation: float = 0.2,
    test: float = 0.2,
    split_seed: int = 0,
) -> Data:
    """Rendered frames of environments that act at random, labelled by the environment; needs no files.

    There are `count` frames of each of `envs`, one after `every` steps. With `observed`, they are the environment's
    observations instead, which have to be images: these are what an agent with such a backbone will get. Raises
    RlkitError for environments that do not exist or have no such frames.
    """
    check_range("data.count", count, 1)
    check_range("data.every", every, 1)
    check_range("data.image_size", image_size, 1)
    sheets = [torch.stack(list(render(env, count, image_size, every, seed, observed=observed))) for env in envs]
    images = torch.cat(sheets)
    labels = torch.arange(len(envs)).repeat_interleave(count)
    testing, rest = split(len(images), [test], split_seed)
    return image_data(
        *(images[rest], labels[rest], images[testing], labels[testing], tuple(envs)),
        validation=validation,
        split_seed=split_seed,
    )


def render(env_id: str, count: int, size: int, every: int, seed: int, *, observed: bool = False) -> Iterator[Tensor]:
    """Yields `count` frames, (3, size, size) bytes, of an environment with random actions: rendered, or `observed`.

    Raises RlkitError for an environment that does not exist or has no such frames.
    """
    # The first variable keeps pygame from greeting on stdout, the second keeps SDL from looking for a display.
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    import gymnasium
    from PIL import Image

    try:
        env = gymnasium.make(env_id, render_mode=None if observed else "rgb_array")
    except (gymnasium.error.Error, TypeError, ModuleNotFoundError) as error:
        raise RlkitError(f"data.envs: cannot {'make' if observed else 'render'} {env_id}: {error}") from error
    try:
        frame: Any
        frame, _ = env.reset(seed=seed)
        env.action_space.seed(seed)
        for _ in range(count):
            for _ in range(every):
                frame, _, terminated, truncated, _ = env.step(env.action_space.sample())
                if terminated or truncated:
                    frame, _ = env.reset()
            if not observed:
                frame = env.render()
            if not is_picture(frame):
                what = f"{type(frame).__name__} {getattr(frame, 'shape', '')}".strip()
                raise RlkitError(f"data.envs: {env_id} {'observes' if observed else 'renders'} {what}, and no image")
            picture = Image.fromarray(frame.squeeze()).convert("RGB")
            image = picture.resize((size, size), Image.Resampling.BILINEAR)
            yield torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy())
    finally:
        env.close()


def is_picture(frame: Any) -> bool:
    """True if the frame is an image that Pillow can take: bytes, (height, width) or (height, width, 1 or 3)."""
    if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8:
        return False
    return frame.ndim == 2 or (frame.ndim == 3 and frame.shape[2] in (1, 3))
