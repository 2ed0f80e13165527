"""Recording of episodes as mp4 files, which needs no display."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsFloat

import gymnasium as gym
import numpy as np

from rlkit.envs.lifetime import close_all
from rlkit.episodes import Predictor, evaluate_policy
from rlkit.errors import RlkitError
from rlkit.runs.files import atomic, make_folder

if TYPE_CHECKING:
    from rlkit.envs import EnvFactory

Env = gym.Env[Any, Any]


def make_recordable(factory: EnvFactory) -> Env:
    """Makes the factory's environment with rendering to arrays; raises RlkitError if it has no such render mode."""
    env = factory()
    modes = env.metadata.get("render_modes") or []
    close_all([env])
    if "rgb_array" not in modes:
        raise RlkitError(
            f"env {factory.id} cannot be recorded: that takes the render mode 'rgb_array', and it has "
            f"{', '.join(map(repr, modes)) or 'none'}"
        )
    return dataclasses.replace(factory, render_mode="rgb_array")()


def record(
    agent: Predictor, env: Env, folder: Path, episodes: int, *, seed: int = 0, deterministic: bool = True
) -> list[Path]:
    """Plays episodes with the seeds of `evaluate_policy` and writes each as `folder`/episode-<i>.mp4.

    `env` must have the render mode `rgb_array`. Returns the files' paths. Raises RlkitError when the environment fails
    or a file cannot be written.
    """
    make_folder(folder)
    paths = [folder / f"episode-{i}.mp4" for i in range(episodes)]
    for i, path in enumerate(paths):
        with _video(path, env.metadata.get("render_fps", 30)) as write_frame:
            evaluate_policy(agent, _Filmed(env, write_frame), 1, seed=seed + i, deterministic=deterministic)
    return paths


class _Filmed(gym.Wrapper[Any, Any, Any, Any]):
    """A wrapper that hands every frame to `write_frame` at once.

    Gymnasium's RecordVideo keeps all frames in memory instead, which takes 360 MB for one episode of CartPole.
    """

    def __init__(self, env: Env, write_frame: Callable[[Any], None]) -> None:
        super().__init__(env)
        self._write_frame = write_frame

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        result = super().reset(seed=seed, options=options)
        self._write_frame(self.env.render())
        return result

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        result = super().step(action)
        self._write_frame(self.env.render())
        return result


@contextmanager
def _video(path: Path, fps: float) -> Iterator[Callable[[Any], None]]:
    """Yields a function that takes the frames of one video, (height, width, 3) bytes.

    If the block raises an exception, no file is left.
    """
    import imageio_ffmpeg

    encoder: Generator[None, Any, None] | None = None

    def write_frame(frame: Any) -> None:
        nonlocal encoder
        image = np.asarray(frame)
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise RlkitError(
                f"a frame is an array of uint8 and shape (height, width, 3): render() gave {image.dtype} {image.shape}"
            )
        if encoder is None:
            height, width = image.shape[:2]
            encoder = imageio_ffmpeg.write_frames(
                temporary,
                (width, height),
                fps=fps,
                macro_block_size=1,
                # Many players only show H.264 with an even width and height.
                output_params=["-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2"],
            )
            encoder.send(None)
        encoder.send(np.ascontiguousarray(image))

    with atomic(path) as temporary:
        try:
            yield write_frame
        finally:
            if encoder is not None:
                encoder.close()
