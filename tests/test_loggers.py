from __future__ import annotations

import csv
import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from waiting import wait_until

from rlkit.errors import RlkitError
from rlkit.runs.loggers import LOGGERS, CSVLogger, TensorBoardConfig, TensorBoardLogger, WandbConfig, make_loggers

SCALARS = {"train/policy_loss": 0.25, "rollout/episode_return": 21.5}


def rows(run_dir: Path) -> list[dict[str, str]]:
    with (run_dir / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_csv_has_a_row_per_log_point_at_once(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path)
    logger.log(SCALARS, 256)
    logger.log({**SCALARS, "rollout/episode_return": 1e-9}, 512)
    first, second = rows(tmp_path)  # before close: a run that is killed keeps its rows
    assert list(first) == ["time/total_timesteps", "train/policy_loss", "rollout/episode_return"]
    assert first == {"time/total_timesteps": "256", "train/policy_loss": "0.25", "rollout/episode_return": "21.5"}
    assert float(second["rollout/episode_return"]) == 1e-9
    logger.close()


def test_csv_takes_new_keys_later(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path)
    logger.log(SCALARS, 1)
    logger.log({"eval/return_mean": 3.0, "eval/x,y": 4.0}, 1)
    logger.log(SCALARS, 2)
    logger.close()
    table = rows(tmp_path)
    assert [row["eval/return_mean"] for row in table] == ["", "3.0", ""]
    assert [row["train/policy_loss"] for row in table] == ["0.25", "", "0.25"]
    assert [row["time/total_timesteps"] for row in table] == ["1", "1", "2"]
    assert list(table[0])[-2:] == ["eval/return_mean", "eval/x,y"]
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.csv"]


def test_csv_does_not_touch_another_runs_metrics(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("theirs")
    with pytest.raises(RlkitError, match="metrics.csv: File exists"):
        CSVLogger(tmp_path)
    assert (tmp_path / "metrics.csv").read_text() == "theirs"


def test_tensorboard_events_can_be_read_back(tmp_path: Path) -> None:
    accumulator = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")

    logger = TensorBoardLogger(TensorBoardConfig(), tmp_path, {"seed": 1})
    for step in (256, 512):
        logger.log(SCALARS, step)
    logger.close()
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert sorted(events.Tags()["scalars"]) == sorted(SCALARS)
    assert [(event.step, event.value) for event in events.Scalars("train/policy_loss")] == [(256, 0.25), (512, 0.25)]


def test_tensorboard_has_one_value_per_step_after_a_resumption(tmp_path: Path) -> None:
    accumulator = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    for resume_at, steps in ((None, range(1, 11)), (6, range(7, 13)), (9, range(10, 15))):
        csv_logger, tensorboard = make_loggers(
            {"tensorboard": TensorBoardConfig()}, tmp_path, {"seed": 1}, resume_at=resume_at
        )
        for step in steps:
            for logger in (csv_logger, tensorboard):
                logger.log({"loss": step + (resume_at or 0) / 100}, step)
        csv_logger.close()
        tensorboard.close()
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload().Scalars("loss")
    expected = [(int(row["time/total_timesteps"]), float(row["loss"])) for row in rows(tmp_path)]
    assert [step for step, _ in expected] == list(range(1, 15))
    assert [event.step for event in events] == list(range(1, 15))
    assert [event.value for event in events] == pytest.approx([value for _, value in expected])


WANDB_RESUMED = """
import sys
from pathlib import Path
from rlkit.runs.loggers import WandbConfig, make_loggers
run_dir = Path(sys.argv[1])
for resume_at, steps in ((None, range(1, 11)), (6, range(7, 13))):
    loggers = make_loggers({"wandb": WandbConfig()}, run_dir, {"seed": 1}, resume_at=resume_at)
    for step in steps:
        for logger in loggers:
            logger.log({"loss": step / 2}, step)
    for logger in loggers:
        logger.close()
"""


def test_wandb_has_one_value_per_step_after_a_resumption(tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("WANDB")}
    environment |= {"HOME": str(tmp_path / "home"), "PYTHONPATH": os.getcwd()}
    command = [sys.executable, "-c", WANDB_RESUMED, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    (run,) = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")  # the earlier one is in it
    assert run.read_bytes().count(b"_runtime") >= 12  # once for each step
    assert len(rows(tmp_path)) == 12


WANDB_RUN = """
import os, signal, sys, time
from pathlib import Path
from rlkit.runs.loggers import WandbConfig, make_loggers
run_dir, end = Path(sys.argv[1]), sys.argv[2]
start = time.perf_counter()
csv, wandb = make_loggers({"wandb": WandbConfig(project="test", tags=["a"])}, run_dir, {"seed": 1, "agent": {"x": 2}})
started = time.perf_counter()
for step in range(100):
    wandb.log({"train/policy_loss": 0.5 * step, "rollout/episode_return": 1.0}, step)
logged = time.perf_counter()
if end == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
wandb.close()
closed = time.perf_counter()
assert closed - start < 60, (started - start, logged - started, closed - logged)  # who waits for a server waits longer
"""


def run_wandb(run_dir: Path, end: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("WANDB")}
    # No login, and nothing to be reached.
    environment |= {"HOME": str(run_dir / "home"), "WANDB_BASE_URL": "http://127.0.0.1:9", "PYTHONPATH": os.getcwd()}
    return subprocess.run(
        [sys.executable, "-c", WANDB_RUN, str(run_dir), end], capture_output=True, text=True, env=environment
    )


def wandb_processes(run_dir: Path) -> list[str]:
    """The command lines of wandb's processes that were started for this run folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"HOME={run_dir / 'home'}".encode() in (process / "environ").read_bytes().split(b"\0"):
                found.append((process / "cmdline").read_text())
        except OSError:
            continue
    return found


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds child processes in /proc")
@pytest.mark.parametrize("end", ["close", "kill"])
def test_wandb_offline_writes_quietly_and_leaves_no_process(tmp_path: Path, end: str) -> None:
    done = run_wandb(tmp_path, end)
    assert done.returncode == (0 if end == "close" else -9), done.stderr
    assert (done.stdout, done.stderr) == ("", "")
    wait_until(lambda: not wandb_processes(tmp_path))
    (run,) = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    if end == "close":
        content = run.read_bytes()
        assert b"train/policy_loss" in content
        assert b"test" in content


def test_wandb_online_without_a_login_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    with pytest.raises(RlkitError, match=r"^logger.wandb.mode=online: .*mode=offline needs no login\)$"):
        make_loggers({"wandb": WandbConfig(mode="online")}, tmp_path, {})


def test_mistakes_name_what_would_be_right(tmp_path: Path) -> None:
    with pytest.raises(RlkitError, match="unknown logger 'tensorbord'; did you mean 'tensorboard'"):
        make_loggers({"tensorbord": None}, tmp_path, {})
    with pytest.raises(RlkitError, match=r"unknown logger.wandb.mode 'ofline'; did you mean 'offline'"):
        make_loggers({"wandb": WandbConfig(mode="ofline")}, tmp_path, {})


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(RlkitError, match="logger=wandb needs the package wandb: pip install wandb"):
        make_loggers({"wandb": WandbConfig()}, tmp_path, {})


@pytest.mark.parametrize("name", LOGGERS)
def test_every_logger_has_a_config_whose_defaults_work_in_the_table(name: str) -> None:
    kind = LOGGERS[name]
    config: Any = kind.config()
    assert kind.config.__doc__
    assert hasattr(kind.logger, "log")
    assert hasattr(kind.logger, "close")
    assert config == kind.config()
