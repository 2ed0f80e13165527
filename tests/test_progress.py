from __future__ import annotations

import re
import sys
from types import SimpleNamespace

import pytest

from rlkit.runs import progress as progress_module
from rlkit.runs.progress import Progress


def test_without_a_terminal_there_is_a_line_every_tenth(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(progress_module, "time", SimpleNamespace(perf_counter=lambda: now))
    with Progress(1000) as progress:
        progress.say("ppo on CartPole-v1")
        for timesteps in range(16, 1009, 16):
            now = timesteps / 8
            progress.update(timesteps, {"rollout/episode_return": timesteps / 2} if timesteps > 200 else {})
    out, err = capsys.readouterr()
    assert out == ""
    first, *lines = err.splitlines()
    assert first == "ppo on CartPole-v1"
    assert len(lines) == 10
    assert lines[0] == " 11%  112 / 1,000 steps  8 steps/s  0:01:51 left"
    assert lines[-1] == "100%  1,008 / 1,000 steps  8 steps/s  0:00:00 left  return 504.0"


def test_large_updates_print_once_each(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(100) as progress:
        for timesteps in (64, 128):
            progress.update(timesteps, {})
    assert [line[:4] for line in capsys.readouterr().err.splitlines()] == [" 64%", "100%"]


def test_a_terminal_gets_a_bar(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    with Progress(1000) as progress:
        progress.say("ppo on [bold]CartPole-v1[/bold]: " + "long " * 40)
        progress.update(500, {"rollout/episode_return": 21.5})
    out, err = capsys.readouterr()
    assert out == ""
    assert "ppo on [bold]CartPole-v1[/bold]: " + "long " * 40 in err  # neither markup nor wrapped
    last = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", err).splitlines()[-1]
    assert "500/1000" in last
    assert "steps/s" in last
    assert last.rstrip().endswith("return 21.5")


def test_the_bar_ends_when_the_run_fails(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")

    def fail() -> None:
        with Progress(10):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert capsys.readouterr().err.count("\x1b[?25h") == 1  # the cursor is back
