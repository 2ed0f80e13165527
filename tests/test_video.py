from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest
from test_evaluate import Fixed, Lottery

from rlkit.envs import EnvFactory
from rlkit.errors import RlkitError
from rlkit.video import make_recordable, record


def frames(path: Path) -> tuple[str, list[Any]]:
    """What ffmpeg says about the file, and its frames: (height, width, 3) each."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    done = subprocess.run(command, check=True, capture_output=True)
    about = done.stderr.decode()
    size = re.search(r"Video: h264.* (\d+)x(\d+)", about)
    assert size
    return about, list(np.frombuffer(done.stdout, np.uint8).reshape(-1, int(size[2]), int(size[1]), 3))


def test_a_video_has_the_episodes_frames(tmp_path: Path) -> None:
    env = Lottery("rgb_array")
    paths = record(Fixed(env), env, tmp_path / "videos", 3, seed=2)
    assert [path.name for path in paths] == ["episode-0.mp4", "episode-1.mp4", "episode-2.mp4"]
    for path, length in zip(paths, (3, 4, 5), strict=True):
        about, shown = frames(path)
        assert " 10 fps" in about
        assert shown[0].shape == (6, 8, 3)  # padded to even numbers, not stretched
        brightness = [frame[:5, :7].mean() for frame in shown]
        np.testing.assert_allclose(brightness, [20 * step for step in range(length + 1)], atol=6)
    assert len(list((tmp_path / "videos").iterdir())) == 3


def test_an_episode_that_fails_leaves_no_video(tmp_path: Path) -> None:
    class Breaks(Lottery):
        def render(self) -> Any:
            if self.steps == 2:
                raise ValueError("no frame")
            return super().render()

    env = Breaks("rgb_array")
    with pytest.raises(RlkitError, match="^env Breaks: step raised ValueError: no frame$"):
        record(Fixed(env), env, tmp_path, 2, seed=1)
    assert [file.name for file in tmp_path.iterdir()] == []


def test_frames_that_are_no_images_are_refused(tmp_path: Path) -> None:
    class Grey(Lottery):
        def render(self) -> Any:
            return np.zeros((5, 7))

    env = Grey("rgb_array")
    with pytest.raises(RlkitError, match=r"a frame is an array of uint8 .*: render\(\) gave float64 \(5, 7\)"):
        record(Fixed(env), env, tmp_path, 1)


class Shows(Lottery):
    """An environment whose pictures are given, one after another."""

    def __init__(self, pictures: list[Any], fps: Any = 10) -> None:
        super().__init__("rgb_array")
        self.pictures, self.metadata = pictures, {"render_modes": ["rgb_array"], "render_fps": fps}

    def render(self) -> Any:
        return self.pictures[min(self.steps, len(self.pictures) - 1)]


def picture(*shape: int) -> Any:
    return np.full(shape, 100, np.uint8)


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (None, "gave None"),
        ([picture(4, 4, 3)], "gave a list"),
        ([[[1, 2, 3]]], "gave a list"),
        (picture(4, 4, 4), r"gave uint8 \(4, 4, 4\)"),
        (picture(4, 4), r"gave uint8 \(4, 4\)"),
        (picture(0, 4, 3), r"gave uint8 \(0, 4, 3\)"),
        (picture(4, 4, 3).astype(np.float32), "gave float32"),
        (picture(4, 4, 3).astype(np.int64), "gave int64"),
        ("text", "gave a str, 'text'"),
    ],
)
def test_what_is_no_frame_is_named(frame: Any, words: str, tmp_path: Path) -> None:
    for pictures in ([frame], [picture(4, 4, 3), frame]):
        env = Shows(pictures)
        with pytest.raises(RlkitError, match=rf"^a frame is an array of uint8 and .*{words}") as caught:
            record(Fixed(env), env, tmp_path, 1)
        assert "\n" not in str(caught.value)
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("second", [(6, 4, 3), (4, 6, 3), (2, 8, 3), (3, 4, 3)])  # of which one has as many bytes
def test_frames_of_changing_size_are_refused(second: tuple[int, ...], tmp_path: Path) -> None:
    env = Shows([picture(4, 4, 3), picture(*second)])
    with pytest.raises(RlkitError, match=f"^the frames .* {second[0]} × {second[1]} pixels after 4 × 4; expected"):
        record(Fixed(env), env, tmp_path, 1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("fps", [np.int64(20), np.float32(20), 20.0, "20", np.array(20)], ids=repr)
def test_a_speed_of_any_kind_of_number(fps: Any, tmp_path: Path) -> None:
    env = Shows([picture(4, 4, 3)], fps)
    about, _ = frames(record(Fixed(env), env, tmp_path, 1)[0])
    assert " 20 fps" in about


@pytest.mark.parametrize(
    "fps", [0, -1, float("nan"), float("inf"), "fast", [30], 10**400], ids=lambda fps: f"{fps}"[:9]
)
def test_a_speed_that_is_none_is_named(fps: Any, tmp_path: Path) -> None:
    env = Shows([picture(4, 4, 3)], fps)
    with pytest.raises(RlkitError, match=r"^metadata\['render_fps'\]=.* is no speed of a video: expected"):
        record(Fixed(env), env, tmp_path, 1)


def test_sizes_that_are_odd_are_padded(tmp_path: Path) -> None:
    env = Shows([picture(1, 1, 3)])
    assert frames(record(Fixed(env), env, tmp_path, 1)[0])[1][0].shape == (2, 2, 3)


@pytest.mark.parametrize("id", ["CartPole-v1", "FrozenLake-v1"])
def test_gymnasiums_environments_are_recorded_without_a_display(id: str, tmp_path: Path) -> None:
    env = make_recordable(EnvFactory(id))
    _, shown = frames(record(Fixed(env), env, tmp_path, 1)[0])
    env.close()
    assert len(shown) > 2
    assert shown[0].shape >= (256, 256, 3)
    assert shown[0].std() > 10  # something is drawn
    assert (shown[0] != shown[-1]).any()


def test_an_environment_that_cannot_render_is_refused() -> None:
    with pytest.raises(RlkitError, match=r"^env rlkit/ProbeConstantReward-v0 cannot be recorded: .* it has none$"):
        make_recordable(EnvFactory("rlkit/ProbeConstantReward-v0"))
