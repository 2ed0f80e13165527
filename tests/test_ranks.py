"""Several processes under torchrun: they follow one process, stay equal, and end together; mistakes are one line."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torchrun_runs import EQUAL, OTHERS, numbers, run
from waiting import PATIENCE, rows_in, wait_until

import rlkit
from rlkit.cli.composition import compose
from rlkit.errors import RlkitError
from rlkit.spaces import Array
from rlkit.system import ranks
from rlkit.system.ranks import ALONE, Launch, Ranks, RowGenerator

ROOT = Path(__file__).resolve().parents[1]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two processes have left all runs of tests/torchrun_runs.py."""
    folder = tmp_path_factory.mktemp("ranks")
    command = [*TORCHRUN, str(ROOT / "tests" / "torchrun_runs.py"), str(folder)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr  # such as that of a process group that nobody closed
    return folder


def learned(folder: Path, name: str, rank: int) -> dict[str, Array]:
    return dict(np.load(folder / f"{name} {rank}.npz"))


def rows(run_dir: Path) -> list[dict[str, str]]:
    with (run_dir / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


# Training


SAME = 1e-3
"""How far apart rounding may bring two runs, as a share of `unit_of`.

One process and two ranks compute the same float32 sums in another order, which changes a sum of n terms by n * 2**-24
of their size at most: a gradient, through two layers of 64 units and over at most 128 rows, by 2e-5 of its terms. Fifty
times that is left for terms that cancel. Nothing multiplies it, because these runs avoid what would: environments
that amplify actions, so many discrete actions that rounding decides one, steps along gradients that are only rounding.
A rank that learned from its own half would be off by its sampling error: for 500 rows, 4e-2.
"""


def unit_of(key: str, expected: dict[str, Any], learning_rate: float) -> Any:
    """The size of what a number's difference is compared with; 0 for counts, which are equal.

    A parameter's is the length of its way, whose steps are about as long as the learning rate; that of statistics is
    the deviation or the variance of what they describe.
    """
    if key.endswith("statistics.mean"):
        return np.sqrt(expected[key.removesuffix("mean") + "var"])
    if key.endswith("statistics.var"):
        return expected[key]
    if key.endswith("statistics.count") or key == "gradient steps":
        return 0
    return learning_rate * expected["gradient steps"]


@pytest.mark.parametrize("name", EQUAL)
def test_two_ranks_with_half_of_the_environments_each_follow_one_process(
    name: str, folder: Path, tmp_path: Path
) -> None:
    alone = run(name, tmp_path)
    agent: Any = alone.agent
    expected, together = numbers(alone), learned(folder, name, 0)
    for key, number in expected.items():
        unit = unit_of(key, expected, agent.config.learning_rate)
        assert np.all(np.abs(together[key] - number) <= SAME * unit), (key, number, together[key])
    summary = json.loads((folder / name / "summary.json").read_text())
    assert {key: summary[key] for key in ("total_timesteps", "episodes", "status")} == {
        key: alone.summary[key] for key in ("total_timesteps", "episodes", "status")
    }
    for theirs, ours in zip(rows(folder / name), rows(alone.run_dir), strict=True):
        # A critic is judged by each rank on its own episodes; all the rest is of all of them.
        for key in ours.keys() - {"time/steps_per_second", "time/training_time_s", "train/explained_variance"}:
            # Losses are means of terms of up to ten, of either sign: 128 * 2**-24 of that is rounding.
            assert float(theirs[key] or 0) == pytest.approx(float(ours[key] or 0), rel=SAME, abs=1e-4), key


def test_decisions_by_the_kl_divergence_were_made(folder: Path) -> None:
    """Otherwise their being equal proves nothing."""
    assert 0 < learned(folder, "ppo", 0)["gradient steps"] < 12 * 5
    assert len({row["train/kl_coef"] for row in rows(folder / "ppo, adaptive")}) > 3


@pytest.mark.parametrize("name", [*EQUAL, *OTHERS])
def test_ranks_have_the_same_parameters_to_the_last_bit(name: str, folder: Path) -> None:
    first, second = (learned(folder, name, rank) for rank in (0, 1))
    assert first.keys() == second.keys()
    for key, array in first.items():
        np.testing.assert_array_equal(array, second[key], err_msg=key)


@pytest.mark.parametrize("name", ["ppo, minibatches", "dqn"])
def test_ranks_find_the_right_answer_together(name: str, folder: Path) -> None:
    agent: Any = rlkit.load(folder / name)
    obs = np.array([[-1.0], [1.0]], np.float32)
    assert agent.action_probabilities(obs).diagonal().min() > 0.9
    np.testing.assert_allclose(agent.value(obs), 1, atol=0.1)


@pytest.mark.parametrize("name", ["ppo, reset steps", "dqn, reset steps"])
def test_steps_that_only_reset_count_for_no_rank(name: str, folder: Path) -> None:
    """Each rank has others of them, so that the ranks have unequally much to learn from."""
    summary = json.loads((folder / name / "summary.json").read_text())
    per_update = 4 * (32 if name.startswith("ppo") else 4)
    assert summary["total_timesteps"] >= 500
    assert summary["total_timesteps"] % per_update != 0
    assert summary["episodes"] > 10


def test_only_the_first_rank_writes(folder: Path) -> None:
    files = {f"{name} {rank}.npz" for name in (*EQUAL, *OTHERS) for rank in (0, 1)}
    assert {path.name for path in folder.iterdir()} == {*EQUAL, *OTHERS, *files, "unequal 0.txt", "unequal 1.txt"}


def test_ranks_that_were_started_differently_do_not_train(folder: Path) -> None:
    for rank in (0, 1):
        assert "started with different settings" in (folder / f"unequal {rank}.txt").read_text()


# How runs end


@contextlib.contextmanager
def training(run_dir: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A run of two processes; leaves none of them behind."""
    command = [*TORCHRUN, "-m", "rlkit", *arguments, f"hydra.run.dir={run_dir}"]
    with subprocess.Popen(command, env=ENVIRONMENT, stdout=-1, stderr=subprocess.STDOUT, text=True) as process:
        children: list[int] = []
        try:
            yield process
        finally:
            children = pids_of_ranks(process.pid)
            process.kill()
            for pid in children:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
    assert children == []


def pids_of_ranks(parent: int) -> list[int]:
    """The processes that torchrun has started and that live, by rank."""
    try:
        return [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]
    except FileNotFoundError:
        return []


def wait_for_metrics(run_dir: Path, process: subprocess.Popen[str]) -> None:
    wait_until(lambda: process.poll() is not None or rows_in(run_dir / "metrics.csv") > 0)
    assert process.poll() is None, process.communicate()[0]


def assert_without_our_traceback(output: str) -> None:
    """torchrun shows its own frames; ours would name our files."""
    assert not re.search(r'File "[^"]*/(rlkit|agents|envs)/\w+\.py"', output), output


LONG = ("agent=a2c", "env=CartPole-v1", "total_timesteps=100000000", "num_envs=2", "log_interval=1", "eval_interval=0")


@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
@pytest.mark.parametrize("end", ["one is killed", "ctrl-c"])
def test_a_run_that_is_disturbed_ends_in_all_processes_and_saves(end: str, tmp_path: Path) -> None:
    with training(tmp_path / "run", *LONG) as process:
        wait_for_metrics(tmp_path / "run", process)
        pids = pids_of_ranks(process.pid)
        assert len(pids) == 2
        if end == "ctrl-c":
            process.send_signal(signal.SIGINT)
        else:
            os.kill(next(p for p in pids if b"\0RANK=1\0" in Path(f"/proc/{p}/environ").read_bytes()), signal.SIGKILL)
        output, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode != 0
        assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert_without_our_traceback(output)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "interrupted"
    assert rlkit.load(tmp_path / "run").predict(np.zeros(4, np.float32))[0] in (0, 1)


def test_a_rank_whose_environment_fails_says_why_once(tmp_path: Path) -> None:
    arguments = ("agent=a2c", "env=user_envs:user/Bad-v0", "env_kwargs={fault:late step of rank 1}", "num_envs=2")
    with training(tmp_path / "run", *arguments, "vectorization=sync") as process:
        output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode != 0
    assert_without_our_traceback(output)
    (line,) = re.findall("^error: .*$", output, re.MULTILINE)
    assert "user/Bad-v0 raised in step" in line
    assert "late boom" in line


# Mistakes, and what one process is told


@pytest.fixture
def second_of_three(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WORLD_SIZE": 3, "RANK": 1, "MASTER_ADDR": "localhost", "MASTER_PORT": 1}.items():
        monkeypatch.setenv(name, str(value))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("agent=a2c num_envs=8", "3 processes cannot share num_envs=8 evenly; the nearest that works: 9"),
        ("agent=a2c num_envs=1", "num_envs=1 evenly; the nearest that works: 3"),
        ("agent=dqn num_envs=3 agent.minibatch_size=64", "agent.minibatch_size=64 evenly; the nearest that works: 63"),
        (
            "agent=trpo num_envs=6",
            "agent=trpo cannot be trained by 3 processes under torchrun; those that can: a2c, dqn",
        ),
        ("agent=reinforce_baseline num_envs=6", "agent=reinforce cannot"),
        ("agent=expected_sarsa env=FrozenLake-v1 num_envs=6", "agent=expected_sarsa cannot"),
    ],
)
@pytest.mark.usefixtures("second_of_three")
def test_what_processes_cannot_share_is_an_error(overrides: str, message: str) -> None:
    with pytest.raises(RlkitError, match=re.escape(message)):
        compose([*overrides.split(), "~tuned"])


@pytest.mark.usefixtures("second_of_three")
def test_what_they_can_share_is_none() -> None:
    compose(["agent=ppo", "env=CartPole-v1", "num_envs=9", "agent.minibatch_size=96"])


def test_a_world_size_without_torchrun_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(RlkitError, match="WORLD_SIZE=2 is set, but RANK is not: start with torchrun"):
        compose(["agent=ppo"])


def test_a_sweep_under_torchrun_is_an_error_that_one_process_prints() -> None:
    environment = {**ENVIRONMENT, "WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    command = [sys.executable, "-m", "rlkit", "-m", "agent=ppo,a2c"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: -m sweeps over runs, but torchrun starts the processes of one")


def test_errors_wait_for_those_that_say_more(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ranks.seconds_to_speak(RlkitError("mistake")) == 0
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    first = ranks.seconds_to_speak(RlkitError("mistake"))
    monkeypatch.setenv("RANK", "1")
    assert 0 == first < ranks.seconds_to_speak(RlkitError("mistake")) < ranks.seconds_to_speak(ranks.LostRank("lost"))


def test_a_ranks_noise_is_its_rows_of_the_noise_for_all() -> None:
    def draws(rng: RowGenerator, rows: int) -> list[Array]:
        return [
            rng.random((rows, 1)),
            rng.standard_exponential((rows, 3), dtype=np.float32),
            rng.standard_normal((rows, 2), dtype=np.float32),
        ]

    def seed() -> np.random.SeedSequence:
        return np.random.SeedSequence(7)

    alone = draws(ALONE.env_rng(seed()), 6)
    own = [ALONE.own_rng(seed()).random()]
    for rank in range(3):
        one_of_three = Ranks(Launch(rank, 3))
        for all_rows, mine in zip(alone, draws(one_of_three.env_rng(seed()), 2), strict=True):
            np.testing.assert_array_equal(mine, all_rows[2 * rank : 2 * rank + 2])
        own.append(one_of_three.own_rng(seed()).random())
    assert own[0] == own[1]  # a run of one process, and the first rank
    assert len(set(own)) == 3


def test_draws_that_would_be_the_same_on_all_ranks_are_not_there() -> None:
    """An agent that explores by another draw gets an error under torchrun, not the same numbers on every rank."""
    rng: Any = Ranks(Launch(1, 2)).env_rng(np.random.SeedSequence(0))
    for draw in ("integers", "normal", "uniform", "choice", "permutation", "gumbel"):
        assert not hasattr(rng, draw)


def test_moments_of_all_ranks_are_those_of_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    parts = [rng.normal(5, 2, (count, 3)) for count in (7, 0, 30)]
    first_of_three = Ranks(Launch(0, 3))
    sent: list[Array] = []

    def send(values: Array) -> Array:
        sent.append(values)
        return np.zeros((3, *values.shape))

    monkeypatch.setattr(first_of_three, "gathered", send)
    for part in parts:
        first_of_three.moments(part)
    monkeypatch.setattr(first_of_three, "gathered", lambda values: np.stack(sent))
    count, mean, var = first_of_three.moments(parts[0])
    rows = np.concatenate(parts)
    assert count == 37
    np.testing.assert_allclose(mean, rows.mean(0))
    np.testing.assert_allclose(var, rows.var(0))
