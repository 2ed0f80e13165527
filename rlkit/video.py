"""Recording of episodes as mp4 files, which needs no display."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsFloat

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from rlkit.envs.lifetime import close_all
from rlkit.episodes import Predictor, evaluate_policy
from rlkit.errors import RlkitError, one_line, shown
from rlkit.runs.files import atomic, make_folder

if TYPE_CHECKING:
    from rlkit.envs import EnvFactory

Env = gym.Env[Any, Any]
MOST_FPS = 1_000
"""Frames per second above which no video is made."""


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
    fps = _frames_per_second(env)
    for i, path in enumerate(paths):
        with _video(path, fps) as write_frame:
            evaluate_policy(agent, _Filmed(env, write_frame), 1, seed=seed + i, deterministic=deterministic)
    return paths


def _frames_per_second(env: Env) -> float:
    """Returns the environment's `render_fps`, 30 where it has none; raises RlkitError unless it is a number above 0."""
    given = (env.metadata or {}).get("render_fps")
    try:
        fps = 30.0 if given is None else float(given)
    except (TypeError, ValueError, OverflowError):
        fps = math.nan
    if not 0 < fps <= MOST_FPS:
        raise RlkitError(
            f"metadata['render_fps']={shown(given)} of the environment is no speed of a video: expected a number above "
            f"0, at most {MOST_FPS:,}, such as 30"
        )
    return fps


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


def _image(frame: Any) -> NDArray[np.uint8]:
    """Returns a frame as an array; raises RlkitError for anything else than a picture in red, green and blue."""
    if not isinstance(frame, np.ndarray):
        got = "None" if frame is None else f"a {type(frame).__name__}, {shown(frame)}"
    elif frame.dtype == np.uint8 and frame.ndim == 3 and frame.shape[2] == 3 and frame.size:
        return frame
    else:
        got = f"{frame.dtype} {frame.shape}"
    raise RlkitError(f"a frame is an array of uint8 and shape (height, width, 3): render() gave {got}")


@contextmanager
def _video(path: Path, fps: float) -> Iterator[Callable[[Any], None]]:
    """Yields a function that takes the frames of one video, (height, width, 3) bytes.

    If the block raises an exception, no file is left. Raises RlkitError for what is no frame, for one of another size
    than the first, and when the encoder fails.
    """
    import imageio_ffmpeg

    encoder: Generator[None, Any, None] | None = None
    size: tuple[int, int] | None = None

    def write_frame(frame: Any) -> None:
        nonlocal encoder, size
        image = _image(frame)
        height, width = image.shape[:2]
        if size is not None and size != (height, width):
            raise RlkitError(
                f"the frames of a video have one size: render() gave {height} × {width} pixels after {size[0]} × "
                f"{size[1]}; expected an environment that keeps the size of its picture"
            )
        size = height, width
        if encoder is None:
            encoder = imageio_ffmpeg.write_frames(
                temporary,
                (width, height),
                fps=fps,
                macro_block_size=1,
                # Many players only show H.264 with an even width and height.
                output_params=["-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2"],
            )
        try:
            if inspect.getgeneratorstate(encoder) == inspect.GEN_CREATED:
                encoder.send(None)
            encoder.send(np.ascontiguousarray(image))
        except Exception as error:  # the encoder's, which is not the environment's fault
            raise RlkitError(f"cannot encode {path}: {one_line(str(error))[:200]}") from error

    with atomic(path) as temporary:
        try:
            yield write_frame
        except BaseException:
            with suppress(Exception):  # it must not hide the first error
                if encoder is not None:
                    encoder.close()
            raise
        if encoder is not None:
            encoder.close()
