"""A3C: what sharing parameters does to them, and what becomes of a run whose processes are disturbed."""

from __future__ import annotations

import contextlib
import csv
import json
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from child_tasks import sgd_descent
from gymnasium.vector import AutoresetMode
from test_budget import started
from test_replay_device import Bright, vector
from training import COMPUTES, assert_same_parameters, parameters, train
from waiting import PATIENCE, rows_in, wait_until

import rlkit
import rlkit.workers.worker
from rlkit.agents.a2c import A2CConfig
from rlkit.agents.a3c import A3C, A3CConfig
from rlkit.collector import Collector
from rlkit.config import EnvConfig, TrainConfig
from rlkit.engine.shared import SharedMemory, SharedParameters
from rlkit.envs import EnvFactory, make_vector_env
from rlkit.errors import RlkitError
from rlkit.registry import make_agent
from rlkit.run import Result
from rlkit.setting import NetworkConfig, Setting
from rlkit.system.processes import SPAWN, num_cores
from rlkit.system.ranks import ALONE
from rlkit.workers.asynchronous import Workers

QUICK = A3CConfig(num_workers=1, num_steps=8, learning_rate=3e-3)


# Sharing parameters


@pytest.mark.parametrize("compute", COMPUTES)
@pytest.mark.parametrize(("env", "optimizer"), [("CartPole-v1", "adam"), ("Pendulum-v1", "rmsprop")])
def test_moving_shared_parameters_is_moving_ones_own(env: str, optimizer: str, compute: str) -> None:
    """A2C with one environment, to the last bit, also of the running statistics."""
    fields: dict[str, Any] = {"num_steps": 5, "optimizer": optimizer, "normalize_rewards": True}
    network = NetworkConfig(normalize_obs=True)
    options: dict[str, Any] = {"network": network, "compute": compute, "num_envs": 1}
    alone, _ = train(env, A2CConfig(**fields, ent_coef=0.01), 40, **options)
    shared, _ = train(env, A3CConfig(**fields), 40, **options, prepare=lambda agent: agent.make_shared(3))
    assert_same_parameters(alone, shared)


def test_moving_a_shared_cnn_is_moving_ones_own() -> None:
    """Filters whose channels are last in memory are shared in the order of their memory."""
    options: dict[str, Any] = {"compute": "torch", "device": "cpu", "num_envs": 2}
    alone, shared = (
        train(vector(Bright, 2, AutoresetMode.SAME_STEP), config, 6, **options, prepare=prepare)[0]
        for config, prepare in (
            (A2CConfig(num_steps=5, ent_coef=0.01), lambda agent: None),
            (A3CConfig(num_steps=5), lambda agent: agent.make_shared(2)),
        )
    )
    assert_same_parameters(alone, shared)


@pytest.mark.parametrize("compute", COMPUTES)
def test_a_constant_gradient_does_not_pile_up(compute: str) -> None:
    """A learning rate of 0 makes it constant: pytorch-a3c's would grow with every step on today's PyTorch."""
    envs, _ = make_vector_env(EnvFactory("CartPole-v1"), 1, "sync")
    spaces = envs.single_observation_space, envs.single_action_space
    agent: Any = make_agent(replace(QUICK, max_grad_norm=None), Setting(*spaces, compute=compute))
    agent.make_shared(1)
    step, norms = agent.engine.step, []

    def five_steps(*args: Any) -> dict[str, float]:
        for _ in range(5):
            metrics: dict[str, float] = step(*args)
            norms.append(metrics["grad_norm"])
        return metrics

    agent.engine.step = five_steps
    collector, buffer = Collector(envs, [0]), agent.make_buffer(1)
    collector.collect(agent, buffer, agent.steps_per_update)
    agent.config.learning_rate = 0.0
    agent.update(buffer, 0.0)
    assert norms[0] > 0
    assert norms == [norms[0]] * 5


def test_workers_in_turn_lose_nothing() -> None:
    """P workers x K updates along g move the parameters by -lr g P K, and every copy can be brought up to date."""
    shared = SharedParameters(np.zeros(8, np.float32), ["square_avg"], [], 3)
    workers = [sgd_descent(8) for _ in range(3)]
    for index, worker in enumerate(workers):
        worker.sink = SharedMemory(worker.optimizer, shared, index)
    for _ in range(10):
        for worker in workers:
            worker.gradients[:] = 2
            worker.step(0.25)
    np.testing.assert_array_equal(shared.parameters, -0.25 * 2 * 3 * 10)
    np.testing.assert_array_equal(shared.updates, [10, 10, 10])
    for worker in workers:
        worker.pull()
        np.testing.assert_array_equal(worker.flat, shared.parameters)


def test_workers_at_once_lose_little(record_property: Any) -> None:
    """The same in two processes that do nothing else: what Hogwild loses at most. No count is lost."""
    updates, size = 20_000, 9_000
    shared = SharedParameters(np.zeros(size, np.float32), ["square_avg"], [], 2)
    pipes, processes = [], []
    for worker in range(2):
        ours, theirs = SPAWN.Pipe()
        processes.append(started("push_ones", shared, worker, updates, theirs))
        pipes.append(ours)
    for word in ("ready", "done"):
        for pipe in pipes:
            assert pipe.recv() == word
        for pipe in pipes:
            if word == "ready":
                pipe.send("begin")
    for process in processes:
        process.join()
    np.testing.assert_array_equal(shared.updates, [updates, updates])
    moved = -shared.parameters / (0.5 * updates * 2)
    record_property("lost share of updates", 1 - float(moved.mean()))
    print(f"\nHogwild lost {1 - moved.mean():.2%} of {2 * updates:,} updates")
    assert moved.max() <= 1
    assert moved.mean() > 0.5  # measured: see docs/a3c.md; a single one's would be 0.5


def test_running_statistics_are_those_of_all_workers() -> None:
    space, actions = gym.spaces.Box(-9, 9, (3,), np.float32), gym.spaces.Discrete(2)
    network = NetworkConfig(normalize_obs=True)
    main, *workers = (A3C(QUICK, Setting(space, actions, network=network)) for _ in range(3))
    shared = main.make_shared(2)
    rows = np.random.default_rng(0).normal(3, 2, (300, 3)).astype(np.float32)
    for index, (worker, part) in enumerate(zip(workers, np.split(rows, [100]), strict=True)):
        worker.share(shared, index)
        for batch in np.array_split(part, 7):
            worker.network.features.update((batch,), ALONE)
    main.pull()
    statistics: Any = main.network.features.statistics
    np.testing.assert_allclose(statistics.mean, rows.mean(0, np.float64), rtol=1e-12)
    np.testing.assert_allclose(statistics.var, rows.var(0, np.float64), rtol=1e-12)
    assert statistics.count == 300


# Whole runs


def children() -> set[int]:
    """The processes that this one has started and not yet waited for."""
    return {int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()}


SMALL: dict[str, Any] = {
    "tuned": False,
    "total_timesteps": 3003,
    "eval_episodes": 2,
    "final_eval_episodes": 2,
    "network.hidden_sizes": [16],
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Result]:
    """A run of two workers, after which everything is as it was before."""
    memory = set(os.listdir("/dev/shm"))
    before = children()
    run_dir = tmp_path_factory.mktemp("runs") / "finished"
    yield rlkit.train("a3c", "CartPole-v1", run_dir=run_dir, **{**SMALL, "agent.num_workers": 2})
    assert not multiprocessing.active_children()
    assert len(children() - before) <= 1  # the standard library's resource tracker
    assert not {name for name in set(os.listdir("/dev/shm")) - memory if str(os.getpid()) in name}


def test_a_run_meets_its_budget_and_leaves_what_every_run_leaves(finished: Result) -> None:
    summary = json.loads((finished.run_dir / "summary.json").read_text())
    assert summary == finished.summary
    found = [summary[key] for key in ("agent", "status", "total_timesteps", "num_workers", "restarts", "eval_episodes")]
    assert found == ["a3c", "finished", 3003, 2, 0, 2]
    assert summary["episodes"] > 20
    with (finished.run_dir / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    steps = [int(row["time/total_timesteps"]) for row in rows]
    assert steps == sorted(steps)
    assert steps[-1] == 3003
    trained = [row for row in rows if row["train/policy_loss"]]
    assert float(trained[-1]["train/learning_rate"]) < 0.05 * 7e-4
    evaluated = [row for row in rows if row["eval/return_mean"]]
    assert evaluated
    assert int(evaluated[-1]["eval/timesteps"]) == 3003
    best = max(float(row["eval/return_mean"]) for row in evaluated)
    assert summary["best_eval_return_mean"] == best


def test_its_checkpoints_are_loaded_like_any(finished: Result) -> None:
    loaded = rlkit.load(finished.run_dir / "checkpoints" / "last")
    assert isinstance(loaded, A3C)
    assert_same_parameters(loaded, finished.agent)
    obs = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    np.testing.assert_array_equal(loaded.predict(obs)[0], finished.agent.predict(obs)[0])
    best = rlkit.load(finished.run_dir)
    again = rlkit.evaluate_policy(best, "CartPole-v1", 2, seed=int(np.random.SeedSequence(0).generate_state(4)[2]))
    assert again.return_mean == finished.summary["best_eval_return_mean"]  # the very model that was evaluated


def test_one_worker_is_a2c_with_one_environment(tmp_path: Path) -> None:
    """To the last bit, from the same seed: and so two runs of one worker are equal as well."""
    settings: dict[str, Any] = {
        **SMALL,
        "total_timesteps": 2000,
        "eval_interval": 0,
        "final_eval_episodes": 0,
        "seed": 3,
    }
    a3c = rlkit.train("a3c", "CartPole-v1", run_dir=tmp_path / "a3c", **{**settings, "agent.num_workers": 1})
    settings |= {"agent.ent_coef": 0.01, "num_envs": 1}
    a2c = rlkit.train("a2c", "CartPole-v1", run_dir=tmp_path / "a2c", **settings)
    assert_same_parameters(a3c.agent, a2c.agent)
    assert a3c.summary["episodes"] == a2c.summary["episodes"]


def workers_of(env: str, total: int, agent: A3CConfig = QUICK, **fields: Any) -> tuple[A3C, Workers]:
    """Workers that could begin."""
    factory = EnvFactory(env, fields.pop("env_kwargs", {}))
    config = TrainConfig(agent, EnvConfig(env), num_envs=1, total_timesteps=total, eval_interval=0, **fields)
    env_ = factory()
    main = A3C(agent, Setting(env_.observation_space, env_.action_space))
    workers = Workers(config, main, factory)
    try:
        workers.start()
    except BaseException:
        workers.stop()
        raise
    return main, workers


def test_a_killed_worker_is_started_again_and_goes_on_from_what_it_had_learned(tmp_path: Path) -> None:
    hurry = tmp_path / "hurry"  # slow until it was killed, so that it is not done before
    env_kwargs = {"step_time": 0.02, "hurry": str(hurry)}
    main, workers = workers_of("user_envs:user/Walk-v0", 6001, env_kwargs=env_kwargs)
    first = parameters(main)
    workers.begin()
    with contextlib.closing(contextlib.ExitStack()) as stack:
        stack.callback(workers.stop)
        (member,) = workers.supervisor.members
        while workers.timesteps < 100:
            workers.advance(0.0)
        os.kill(member.process.pid, signal.SIGKILL)
        while not workers.supervisor.notes:
            workers.advance(0.0)
        assert member.starts == 2
        main.pull()
        learned = parameters(main)
        assert any((learned[name] != array).any() for name, array in first.items())
        at_restart = workers.timesteps
        hurry.touch()
        while workers.timesteps < 6001:
            workers.advance(0.0)
        assert 100 <= at_restart < workers.timesteps == 6001
    assert workers.timesteps == 6001
    reason = "killed by SIGKILL, as the kernel does when memory runs out"
    assert workers.supervisor.notes == [f"worker 0 died: {reason}; started again (1 of 3 times)"]
    assert not multiprocessing.active_children()


def test_an_environment_that_keeps_breaking_ends_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = {**SMALL, "env_kwargs": {"fault": "late step"}, "agent.num_workers": 1, "agent.max_restarts": 1}
    settings |= {"agent.num_steps": 2, "eval_interval": 0}
    with pytest.raises(RlkitError) as caught:
        rlkit.train("a3c", "user_envs:user/Bad-v0", run_dir=tmp_path / "run", **settings)
    error = "worker 0 died: environment user_envs:user/Bad-v0 raised in step after 9 timesteps: KeyError: 'late boom'"
    assert str(caught.value) == f"{error}; after 1 restarts (agent.max_restarts)"
    assert f"{error}; started again (1 of 1 times)\n" in capsys.readouterr().err
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["status"], summary["restarts"], summary["total_timesteps"]) == ("failed", 1, 16)
    assert not multiprocessing.active_children()


def test_a_diverging_run_stops(tmp_path: Path) -> None:
    settings = {**SMALL, "agent.learning_rate": 1e38, "agent.num_workers": 1, "eval_interval": 0}
    with pytest.raises(RlkitError, match=r"training diverged after \d+ timesteps: train/\w+ is (nan|inf)"):
        rlkit.train("a3c", "CartPole-v1", run_dir=tmp_path / "run", **settings)
    assert not multiprocessing.active_children()


def test_an_environment_that_only_works_here_ends_the_run_before_it_begins(tmp_path: Path) -> None:
    settings = {**SMALL, "env_kwargs": {"fault": "not here"}, "agent.num_workers": 1}
    words = (
        "(worker 0|the evaluator) could not start: env user_envs:user/Bad-v0: making it raised ValueError: no display"
    )
    with pytest.raises(RlkitError, match=f"^{words}$"):
        rlkit.train("a3c", "user_envs:user/Bad-v0", run_dir=tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists()
    assert not multiprocessing.active_children()


def test_an_environment_that_cannot_be_sent_to_a_worker_says_what_to_do() -> None:
    gym.register("user/Lambda-v0", lambda **kwargs: gym.make("CartPole-v1", **kwargs))
    try:
        with pytest.raises(RlkitError, match=r"^env user/Lambda-v0: it cannot be sent .* env=my_module:MyEnv-v0$"):
            workers_of("user/Lambda-v0", 100)
    finally:
        del gym.registry["user/Lambda-v0"]


def test_an_environment_of_the_main_program_says_what_to_do(tmp_path: Path) -> None:
    program = (
        "import gymnasium, rlkit\n"
        "from gymnasium.envs.classic_control import CartPoleEnv\n"
        "class Mine(CartPoleEnv): pass\n"
        "gymnasium.register('Mine-v0', Mine, max_episode_steps=100)\n"
        "rlkit.train('a3c', 'Mine-v0', run_dir='run', eval_interval=0, **{'agent.num_workers': 1})\n"
    )
    done = run(["-c", program], cwd=tmp_path).communicate(timeout=PATIENCE)[0]
    assert "RlkitError: worker 0 could not start: what the main program defines is not known in its workers" in done
    assert "env=my_module:MyEnv-v0" in done
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"agent.num_workers": 0}, "agent.num_workers=0 is out of range: it must be at least 1"),
        ({"agent.num_workers": "all"}, "agent.num_workers=all: expected a whole number, or auto"),
        ({"agent.max_restarts": -1}, "agent.max_restarts=-1 is out of range: it must be at least 0"),
        ({"agent.optimizer": "sgd"}, "unknown agent.optimizer 'sgd'"),
        ({"vectorization": "async"}, "vectorization=async: agent=a3c steps the environments in its workers"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(RlkitError, match=words):
        rlkit.train("a3c", "CartPole-v1", run_dir=tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("shape", "kept"), [((3, 16, 16), 1), ((4,), 0)])
def test_workers_on_images_keep_what_they_free(
    shape: tuple[int, ...], kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[bool] = []
    monkeypatch.setattr(rlkit.workers.worker, "keep_freed_memory", lambda: calls.append(True))
    factory = EnvFactory("CartPole-v1")
    task = rlkit.workers.worker.Task(
        TrainConfig(agent=A3CConfig(), env=EnvConfig("CartPole-v1")), factory, gym.spec("CartPole-v1")
    )
    space = gym.spaces.Box(0, 255, shape, np.uint8)
    rlkit.workers.worker._agent(task, space, gym.spaces.Discrete(2), 0)
    assert len(calls) == kept


def test_far_more_workers_than_cores_are_warned_about() -> None:
    env = gym.make("CartPole-v1")
    for count, warned in ((2 * num_cores(), False), (2 * num_cores() + 1, True)):
        config = TrainConfig(replace(QUICK, num_workers=count), EnvConfig(), num_envs=1)
        workers = Workers(
            config, A3C(config.agent, Setting(env.observation_space, env.action_space)), EnvFactory("CartPole-v1")
        )
        assert workers.num_workers == count
        assert bool(workers.supervisor.notes) == warned
    assert workers.supervisor.notes[0].startswith(f"warning: agent.num_workers={count} on {num_cores()} cores")


# Whole runs from outside


def run(arguments: list[str], cwd: Path) -> subprocess.Popen[str]:
    """Python in a session of its own, as a terminal starts it."""
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def alive(session: int) -> set[int]:
    """The processes of a session that have not ended."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, _, _, its_session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(its_session) == session and state != "Z":
                found.add(int(folder.name))
    return found


def assert_all_end(session: int) -> None:
    """Though not all at once: the standard library's resource tracker notices a moment later that it is alone."""
    wait_until(lambda: not alive(session), lambda: f"for {alive(session)} to end")


@pytest.fixture
def training(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Two workers and an evaluator in the middle of training."""
    arguments = ["agent=a3c", "env=CartPole-v1", "agent.num_workers=2", "total_timesteps=10_000_000"]
    arguments += ["log_interval=1", "eval_interval=1000", f"hydra.run.dir={tmp_path / 'run'}"]
    process = run(["-m", "rlkit", *arguments], tmp_path)
    metrics = tmp_path / "run" / "metrics.csv"
    try:
        wait_until(lambda: process.poll() is not None or rows_in(metrics) > 2)
        yield process
    finally:
        for pid in alive(process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_terminals_signal_ends_all_processes_with_a_checkpoint(
    number: signal.Signals, training: subprocess.Popen[str], tmp_path: Path
) -> None:
    process = training
    assert len(alive(process.pid)) >= 4
    os.killpg(process.pid, number)  # as a terminal does: to the workers too
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, output
    assert_all_end(process.pid)
    assert "Traceback" not in output
    assert "interrupted after" in output
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["status"] == "interrupted"
    assert summary["total_timesteps"] > 0
    assert rlkit.load(tmp_path / "run" / "checkpoints" / "last").predict(np.zeros(4, np.float32))[0] in (0, 1)


def test_no_process_outlives_a_killed_main_process(training: subprocess.Popen[str]) -> None:
    process = training
    os.kill(process.pid, signal.SIGKILL)
    output, _ = process.communicate(timeout=PATIENCE)  # the workers have its output too: the last of them ends it
    assert "Traceback" not in output
    assert_all_end(process.pid)
