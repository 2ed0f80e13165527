"""Vector environments: the data do not depend on the implementation, and no worker process outlives its parent."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, VectorEnv
from waiting import PATIENCE

from rlkit.action_masks import fitted_masks, masks_in
from rlkit.envs import EnvFactory, make_vector_env
from rlkit.errors import RlkitError

NUM_ENVS = 3

FACTORIES = [
    EnvFactory("CartPole-v1"),
    EnvFactory("Pendulum-v1", {"max_episode_steps": 7}),
    EnvFactory("Taxi-v4", {"max_episode_steps": 9}),  # action masks and more in its infos
    EnvFactory("Blackjack-v1"),
    EnvFactory("rlkit/ProbeDictObs-v0"),
    EnvFactory("rlkit/ProbeMaskedAction-v0"),
    EnvFactory("user_envs:user/Walk-v0", {"limit": 5}),
]


def rollout(envs: VectorEnv[Any, Any, Any], num_steps: int) -> Iterator[Any]:
    """All that comes out of reset and `num_steps` steps, with the same allowed actions for equal observations."""
    envs.action_space.seed(0)
    result: Any = envs.reset(seed=11)
    yield result
    for _ in range(num_steps):
        actions = envs.action_space.sample()
        masks = fitted_masks(envs.single_action_space, masks_in(result[-1], envs.num_envs))
        if masks is not None:
            actions = np.argmax(masks * (1 + actions[:, None] * np.arange(masks.shape[1])), 1)
        result = envs.step(actions)
        yield result


def assert_same(a: Any, b: Any) -> None:
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    elif isinstance(a, np.ndarray) and a.dtype == object:
        assert_same(tuple(a), tuple(b))
    elif isinstance(a, np.ndarray):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    else:
        assert a == b


def as_needed(results: Iterator[Any], space: Any) -> Iterator[Any]:
    """Results whose infos have what a collector needs: last observations and masks, None where there is none."""
    for *data, info in results:
        finals: list[Any] = [None] * NUM_ENVS if info.get("final_obs") is None else list(info["final_obs"])
        yield (*data, tuple(finals), fitted_masks(space, masks_in(info, NUM_ENVS)))


@pytest.mark.parametrize("factory", FACTORIES, ids=lambda factory: factory.id)
def test_sync_gives_the_data_of_gymnasiums(factory: EnvFactory) -> None:
    ours, _ = make_vector_env(factory, NUM_ENVS, "sync")

    class Theirs(gym.vector.SyncVectorEnv[Any, Any]):
        """Also when an environment overwrites its last observation: that is a fault of theirs."""

        def _add_info(self, infos: Any, info: Any, i: int) -> Any:
            if "final_obs" in info:
                info = {**info, "final_obs": np.copy(info["final_obs"])} if factory.id.endswith("Walk-v0") else info
            return super()._add_info(infos, info, i)

    theirs = Theirs([factory] * NUM_ENVS, autoreset_mode=AutoresetMode.SAME_STEP)
    ends = 0
    space = ours.single_action_space
    for a, b in zip(as_needed(rollout(ours, 60), space), as_needed(rollout(theirs, 60), space), strict=True):
        assert_same(a, b)
        ends += any(final is not None for final in a[-2])
    assert ends > 0
    assert ours.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP


@pytest.mark.parametrize("factory", FACTORIES, ids=lambda factory: factory.id)
def test_async_gives_the_data_of_sync(factory: EnvFactory) -> None:
    sync, _ = make_vector_env(factory, NUM_ENVS, "sync")
    processes, sentence = make_vector_env(factory, NUM_ENVS, "async")
    assert "async, 3 worker processes" in sentence
    space = sync.single_action_space
    for a, b in zip(as_needed(rollout(sync, 60), space), as_needed(rollout(processes, 60), space), strict=True):
        assert_same(a, b)
    processes.close()


def test_workers_know_ids_that_only_this_program_has_registered() -> None:
    gym.register("test/OnlyHere-v0", "gymnasium.envs.classic_control:CartPoleEnv", max_episode_steps=3)
    envs, _ = make_vector_env(EnvFactory("test/OnlyHere-v0"), 2, "async")
    ends = [step for step, result in enumerate(rollout(envs, 6)) if "final_obs" in result[-1]]
    envs.close()
    assert ends == [3, 6]


def test_sync_keeps_nothing_that_it_has_handed_out() -> None:
    envs, _ = make_vector_env(EnvFactory("user_envs:user/Walk-v0"), 2, "sync")
    results = list(rollout(envs, 20))
    again, _ = make_vector_env(EnvFactory("user_envs:user/Walk-v0"), 2, "sync")
    for kept, fresh in zip(results, rollout(again, 20), strict=True):
        assert_same(kept, fresh)


def transitions(envs: VectorEnv[Any, Any, Any], num_steps: int) -> list[list[tuple[float, float, float, bool, bool]]]:
    """Per environment: (first number of obs, of the obs that follows it, reward, terminated, truncated), resets out."""
    next_step = envs.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP
    obs, _ = envs.reset(seed=0)
    done = np.zeros(envs.num_envs, bool)
    found: list[Any] = [[] for _ in range(envs.num_envs)]
    for _ in range(num_steps):
        next_obs, reward, terminated, truncated, info = envs.step(np.ones(envs.num_envs, np.int64))
        resets, done = done, terminated | truncated
        for i in np.flatnonzero(~(resets & next_step)):
            last = next_obs[i] if next_step or not done[i] else info["final_obs"][i]
            found[i].append(
                (float(obs[i][0]), float(last[0]), float(reward[i]), bool(terminated[i]), bool(truncated[i]))
            )
        obs = next_obs
    return found


@pytest.mark.parametrize(
    ("vectorization", "mode"), [("sync", "SAME_STEP"), ("async", "SAME_STEP"), ("native", "NEXT_STEP")]
)
def test_a_truncated_episode_has_as_many_transitions_as_steps_in_every_mode(vectorization: str, mode: str) -> None:
    """An environment that truncates after 4 steps, stepped 10 times: 10 transitions, or 8 and 2 resets."""
    envs, _ = make_vector_env(EnvFactory("CartPole-v1", {"max_episode_steps": 4}), 2, vectorization)
    assert envs.metadata["autoreset_mode"] == AutoresetMode[mode]
    for found in transitions(envs, 10):
        assert len(found) == (8 if mode == "NEXT_STEP" else 10)
        for t, (position, next_position, reward, terminated, truncated) in enumerate(found):
            assert (reward, terminated, truncated) == (1.0, False, t % 4 == 3)
            # The cart moves less than this in a step, and is put elsewhere by a reset.
            assert 0 < abs(next_position - position) < 0.02
            assert (t % 4 == 0) or position == found[t - 1][1]
    envs.close()


@pytest.mark.parametrize(
    ("fault", "error", "text"),
    [
        ("late step", KeyError, "late boom"),
        ("unpicklable", RuntimeError, "Unpicklable: boom 3"),
        ("late connection", RuntimeError, "ConnectionRefusedError: no simulator"),
    ],
)
def test_an_error_in_a_worker_is_raised_here(fault: str, error: type[Exception], text: str) -> None:
    envs, _ = make_vector_env(EnvFactory("user_envs:user/Bad-v0", {"fault": fault}), 2, "async")
    with pytest.raises(error, match=text):
        list(rollout(envs, 20))
    envs.close()


def test_a_worker_that_dies_is_an_error_of_one_line() -> None:
    envs, _ = make_vector_env(EnvFactory("user_envs:user/Bad-v0", {"fault": "exit"}), 2, "async")
    with pytest.raises(RlkitError, match=r"^env user_envs:user/Bad-v0: a worker process died \(exit code 7\)"):
        list(rollout(envs, 20))
    envs.close()


def test_a_script_without_a_main_guard_is_told_what_it_needs(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from rlkit.envs import EnvFactory, make_vector_env\nmake_vector_env(EnvFactory('CartPole-v1'), 2, 'async')\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    expected = "vectorization=async starts processes: a script needs `if __name__ == '__main__':` around what it does"
    assert expected in done.stderr.splitlines()[-1]
    assert done.stderr.count("Traceback") == 1  # that of the script, which does not catch the error


SCRIPT = """
import sys, time
from rlkit.envs import EnvFactory, make_vector_env
if __name__ == "__main__":
    print("starting", flush=True)
    try:
        envs, _ = make_vector_env(EnvFactory("user_envs:user/Bad-v0", {"fault": sys.argv[1]}), 2, "async")
        envs.reset(seed=0)
        print("running", *(worker.pid for worker in envs.processes), flush=True)
        while True:
            envs.step(envs.action_space.sample())
    except KeyboardInterrupt:
        if "envs" in globals():
            envs.close()
        print("interrupted", flush=True)
"""


@pytest.fixture
def script(tmp_path: Path) -> Iterator[Any]:
    """Starts SCRIPT with a fault, in a process group of its own."""
    (tmp_path / "script.py").write_text(SCRIPT)
    started: list[subprocess.Popen[str]] = []

    def start(fault: str) -> subprocess.Popen[str]:
        path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
        process = subprocess.Popen(
            [sys.executable, str(tmp_path / "script.py"), fault],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def wait_for(process: subprocess.Popen[str], word: str) -> list[int]:
    """Waits for a line that starts with `word`; the numbers that follow."""
    assert process.stdout is not None
    line = next(line for line in process.stdout if line.startswith(word))
    return [int(number) for number in line.split()[1:]]


@pytest.mark.parametrize("fault", ["none", "hang"])
def test_workers_end_when_their_parent_is_killed(script: Any, fault: str) -> None:
    process = script(fault)
    wait_for(process, "running")
    time.sleep(0.5)  # steps, and hangs at the tenth
    process.kill()
    # Workers have the parent's stdout: it ends when the last of them does.
    _, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == -signal.SIGKILL
    assert "Traceback" not in stderr


@pytest.mark.parametrize(
    ("fault", "moment", "seconds"), [("none", "starting", 0.2), ("none", "running", 0.5), ("hang", "running", 0.5)]
)
def test_workers_are_silent_on_ctrl_c(script: Any, fault: str, moment: str, seconds: float) -> None:
    process = script(fault)
    workers = wait_for(process, moment)
    time.sleep(seconds)
    for worker in workers:
        os.kill(worker, signal.SIGINT)
    time.sleep(0.2)
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)
    stdout, stderr = process.communicate(timeout=PATIENCE)
    assert stdout.splitlines()[-1] == "interrupted"
    assert (process.returncode, stderr) == (0, "")
