"""What Gymnasium's environments look like: rendered frames, labelled by the environment."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

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
    seed: int = 0,
    validation: float = 0.2,
    test: float = 0.2,
    split_seed: int = 0,
) -> Data:
    """`count` frames of each environment, one `every` so many steps of random actions; the labels are the environments.

    Needs no files. Raises RlkitError for environments that do not exist or cannot render.
    """
    check_range("data.count", count, 1)
    check_range("data.every", every, 1)
    check_range("data.image_size", image_size, 1)
    sheets = [torch.stack(list(render(env, count, image_size, every, seed))) for env in envs]
    images = torch.cat(sheets)
    labels = torch.arange(len(envs)).repeat_interleave(count)
    testing, rest = split(len(images), [test], split_seed)
    return image_data(
        *(images[rest], labels[rest], images[testing], labels[testing], tuple(envs)),
        validation=validation,
        split_seed=split_seed,
    )


def render(env_id: str, count: int, size: int, every: int, seed: int) -> Iterator[Tensor]:
    """`count` frames, (3, size, size) bytes, of an environment that acts at random."""
    # Without them, pygame greets on stdout, and SDL looks for a display.
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    import gymnasium
    from PIL import Image

    try:
        env = gymnasium.make(env_id, render_mode="rgb_array")
    except (gymnasium.error.Error, TypeError, ModuleNotFoundError) as error:
        raise RlkitError(f"data.envs: cannot render {env_id}: {error}") from error
    try:
        env.reset(seed=seed)
        env.action_space.seed(seed)
        for _ in range(count):
            for _ in range(every):
                _, _, terminated, truncated, _ = env.step(env.action_space.sample())
                if terminated or truncated:
                    env.reset()
            frame = env.render()
            if not isinstance(frame, np.ndarray):
                raise RlkitError(f"data.envs: {env_id} renders {type(frame).__name__}, and no image")
            image = Image.fromarray(frame).resize((size, size), Image.Resampling.BILINEAR)
            yield torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy())
    finally:
        env.close()
