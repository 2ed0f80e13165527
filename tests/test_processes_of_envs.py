"""Environments that processes are hard on: each is trained, or the one line says why not."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import stubborn_envs
from waiting import PATIENCE

import rlkit
from rlkit.envs import EnvFactory, make_vector_env
from rlkit.errors import RlkitError
from rlkit.run import Result
from rlkit.system.processes import reruns_main

SLOW = {"step_time": 1e-3}
"""Steps so slow that `auto` takes worker processes."""
SMALL: dict[str, Any] = {
    "total_timesteps": 128,
    "agent.num_steps": 32,
    "agent.minibatch_size": 32,
    "eval_episodes": 2,
    "final_eval_episodes": 2,
}


def env(name: str) -> str:
    return f"stubborn_envs:stubborn/{name}-v0"


def train(run_dir: Path, name: str, **settings: Any) -> Result:
    return rlkit.train("ppo", env(name), run_dir=run_dir, **{**SMALL, "num_envs": 2, **settings})


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that `auto` considers worker processes on every machine."""
    monkeypatch.setattr("rlkit.envs.make.num_cores", lambda: 2)
    stubborn_envs.OncePerProcess.alive.clear()


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.mark.parametrize("vectorization", ["auto", "sync", "async"])
@pytest.mark.parametrize("method", ["spawn", "fork"])
@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_an_environment_may_start_a_process(method: str, vectorization: str) -> None:
    factory = EnvFactory(env("StartsProcess"), {**SLOW, "method": method})
    envs, sentence = make_vector_env(factory, 2, vectorization)
    assert sentence.startswith("sync" if vectorization == "sync" else "async, 2 worker processes")
    obs, _ = envs.reset(seed=0)
    assert obs.tolist() == [[0, 0], [0, 0]]
    envs.step(envs.action_space.sample())
    envs.close()


def test_processes_that_an_environment_leaves_behind_are_ended_in_workers() -> None:
    envs, _ = make_vector_env(EnvFactory(env("StartsProcess"), {"leave": True, "method": "spawn"}), 2, "async")
    envs.reset(seed=0)
    envs.close()  # would wait for ever


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("constructor", "making it raised OSError: no display, in a worker process"),
        ("exit", "making it raised SystemExit: no licence, in a worker process"),
        ("killed", "a worker process died (exit code 9)"),
    ],
)
def test_an_environment_that_works_in_no_worker_says_why_and_auto_takes_sync(
    fault: str, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    factory = EnvFactory(env("NotInWorkers"), {"fault": fault, **SLOW})
    with pytest.raises(RlkitError) as caught:
        make_vector_env(factory, 2, "async")
    assert str(caught.value) == f"env {env('NotInWorkers')}: {message}; vectorization=sync does without them"
    envs, sentence = make_vector_env(factory, 2, "auto")
    envs.close()
    assert sentence == (f"sync, in this process: worker processes were tried, but env {env('NotInWorkers')}: {message}")
    assert capfd.readouterr().err == ""


def test_auto_also_falls_back_where_the_first_reset_fails(capfd: pytest.CaptureFixture[str]) -> None:
    envs, sentence = make_vector_env(EnvFactory(env("NotInWorkers"), {"fault": "reset", **SLOW}), 2, "auto")
    envs.close()
    assert sentence.startswith("sync, in this process: worker processes were tried, but env ")
    assert "reset in a worker process raised RuntimeError: no display" in sentence
    assert capfd.readouterr().err == ""


def test_what_cannot_be_unpickled_in_a_worker_is_sent_home(capfd: pytest.CaptureFixture[str]) -> None:
    factory = EnvFactory(env("OnlyHere"), SLOW)
    with pytest.raises(RlkitError, match=r"raised ImportError: libsim.so: cannot open .*, in a worker process; vector"):
        make_vector_env(factory, 2, "async")
    envs, sentence = make_vector_env(factory, 2, "auto")
    envs.close()
    assert "libsim.so" in sentence
    assert capfd.readouterr().err == ""


def test_what_cannot_be_pickled_is_one_line_and_auto_takes_sync() -> None:
    import threading

    import gymnasium as gym

    lock = threading.Lock()

    def make(step_time: float = 0.0) -> Any:
        assert not lock.locked()
        return stubborn_envs.Ten(step_time)

    gym.register("stubborn/HasLock-v0", make)  # type: ignore[arg-type]
    factory = EnvFactory("stubborn/HasLock-v0", SLOW)
    with pytest.raises(RlkitError, match=r"^env stubborn/HasLock-v0: making 2 of it in worker processes raised Type"):
        make_vector_env(factory, 2, "async")
    envs, sentence = make_vector_env(factory, 2, "auto")
    envs.close()
    assert sentence.startswith("sync, in this process: worker processes were tried")


def test_an_environment_that_exists_once_is_trained_alone(
    port: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = train(tmp_path / "run", "OncePerMachine", num_envs=1, env_kwargs={"port": port})
    assert (result.summary["status"], result.summary["eval_return_mean"]) == ("finished", 10)
    err = capsys.readouterr().err
    assert err.count("no evaluations before the end, when the environments of training are closed: env ") == 1
    assert "Address already in use" in err


@pytest.mark.parametrize("vectorization", ["auto", "sync", "async"])
def test_two_of_what_exists_once_is_one_line(port: int, vectorization: str) -> None:
    with pytest.raises(RlkitError, match=r"OSError: \[Errno \d+\] Address already in use") as caught:
        make_vector_env(EnvFactory(env("OncePerMachine"), {"port": port, **SLOW}), 2, vectorization)
    if vectorization != "async":
        assert str(caught.value).endswith("one could be made, but not 2 at once: num_envs=1")
    with socket.socket() as free:
        free.bind(("127.0.0.1", port))  # nobody holds it any longer


@pytest.mark.parametrize(("times", "num_envs", "played"), [(1, 1, 10), (3, 3, 10), (4, 2, 10)])
def test_evaluations_take_as_many_environments_as_there_can_be(
    times: int, num_envs: int, played: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kwargs = {"times": times}
    result = train(
        tmp_path / "run", "OncePerProcess", num_envs=num_envs, env_kwargs=kwargs, eval_episodes=5, vectorization="sync"
    )
    assert result.summary["eval_return_mean"] == played
    err = capsys.readouterr().err
    beside = times - num_envs
    assert ("no evaluations before the end" in err) == (beside == 0)
    assert ("episodes are evaluated in 2 environments and not in 5" in err) == (beside == 2)


UNGUARDED = """
from pathlib import Path
import sys
import rlkit
from rlkit.envs import EnvFactory, make_vector_env
with open("begun", "a") as file:
    file.write("x")
try:
    {call}
except rlkit.RlkitError as error:
    print("error:", error)
"""
MAKE = "print(make_vector_env(EnvFactory('stubborn_envs:stubborn/Ten-v0', {'step_time': 0.001}), 2, 'WAY')[1])"
A3C = "rlkit.train('a3c', run_dir='run', total_timesteps=64, **{'agent.num_workers': 2})"
THREAD = "t = threading.Thread(target=lambda: print(reruns_main()))"
GUARD = "if __name__ == '__main__':\n    "


def run_script(folder: Path, text: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Runs a script, or with `-` gives it to Python's standard input."""
    (folder / "script.py").write_text(text)
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    return subprocess.run(
        [sys.executable, *(options or ["script.py"])],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "PYTHONWARNINGS": "error"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        input=text if options else None,
    )


@pytest.mark.parametrize("options", [(), ("-",)])
@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (MAKE.replace("WAY", "auto"), "sync, in this process: "),
        (MAKE.replace("WAY", "async"), "error: vectorization=async starts processes: a script needs `if __name__"),
        (A3C, "error: agent=a3c starts processes: a script needs `if __name__ == '__main__':` around what it does"),
    ],
)
def test_a_script_without_a_main_guard_starts_no_processes(
    call: str, expected: str, options: tuple[str, ...], tmp_path: Path
) -> None:
    cores = "import rlkit.envs.make\nrlkit.envs.make.num_cores = lambda: 2\n"
    done = run_script(tmp_path, cores + UNGUARDED.replace("{call}", call), *options)
    assert done.stdout.splitlines()[-1].startswith(expected), done.stderr
    assert (tmp_path / "begun").read_text() == "x"
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("text", "again"),
    [
        ("print(reruns_main())", True),
        ("def main():\n    print(reruns_main())\nmain()", True),
        (f"{GUARD}print('guarded')\nprint(reruns_main())", True),
        (f"{GUARD}print(reruns_main())", False),
        (f"def main():\n    print(reruns_main())\n{GUARD}main()", False),
        ("if '__main__' == __name__ and True:\n    x = (1,\n        print(reruns_main()))", False),
        ("try:\n    if __name__ == '__main__':\n        print(reruns_main())\nfinally:\n    pass", False),
        ("if __name__ != '__main__':\n    pass\nelse:\n    print(reruns_main())", True),
        (f"import threading\n{GUARD}{THREAD}\n    t.start(); t.join()", False),
        (f"import threading\n{THREAD}\nt.start(); t.join()", True),
    ],
)
def test_what_runs_again_in_a_spawned_process_is_known(text: str, again: bool, tmp_path: Path) -> None:
    """Where it is not certain that a process would not run it again, it counts as if it would."""
    done = run_script(tmp_path, f"from rlkit.system.processes import reruns_main\n{text}\n")
    assert done.stdout.splitlines()[-1] == str(again), done.stderr


def test_code_that_no_process_can_import_again_is_no_obstacle(tmp_path: Path) -> None:
    text = "from rlkit.system.processes import reruns_main; print(reruns_main())"
    assert run_script(tmp_path, "", "-c", text).stdout == "False\n"
    assert not reruns_main()  # pytest has a guard
