"""A3C on Ray: what a parameter server does to gradients, and what becomes of a run whose cluster is disturbed."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from child_tasks import SGD
from test_a3c import QUICK, SMALL, alive, run
from training import COMPUTES, assert_same_parameters, parameters, train
from waiting import PATIENCE, rows_in, wait_until

import rlkit
from rlkit.agents.a2c import A2CConfig
from rlkit.agents.a3c import A3C, A3CConfig
from rlkit.config import EnvConfig, TrainConfig
from rlkit.envs import EnvFactory
from rlkit.errors import RlkitError
from rlkit.setting import NetworkConfig, Setting
from rlkit.system.ranks import ALONE
from rlkit.workers import ray_cluster as cluster
from rlkit.workers import ray_workers
from rlkit.workers.parameter_server import ParameterServer, Push, RemoteParameters
from rlkit.workers.ray_workers import RayWorkers

# The parameter server, without Ray


def server_of(agent: A3C, num_workers: int = 1, total: int = 1000) -> ParameterServer:
    config = agent.config
    options: dict[str, Any] = {"optimizer": config.optimizer, "eps": config.optimizer_eps}
    return ParameterServer(*agent.shareable(), num_workers, total, **options)


def connect(agent: A3C, server: ParameterServer, num_workers: int = 1, worker: int = 0, starts: int = 0) -> Any:
    """Lets the agent be a worker whose messages need no network."""
    size, rows = agent.shareable()[0].size, agent.shareable()[1]
    remote = RemoteParameters(lambda push: server.exchange(worker, starts, push), size, rows, num_workers, worker)
    agent.connect(remote)
    return remote


@pytest.mark.parametrize("compute", COMPUTES)
@pytest.mark.parametrize(("env", "optimizer"), [("CartPole-v1", "adam"), ("Pendulum-v1", "rmsprop")])
def test_one_worker_of_a_server_is_a2c(env: str, optimizer: str, compute: str) -> None:
    """To the last bit, where A2C has the server's optimiser: torch's own rounds differently."""
    fields: dict[str, Any] = {"num_steps": 5, "optimizer": optimizer, "normalize_rewards": True}
    network = NetworkConfig(normalize_obs=True)
    options: dict[str, Any] = {"network": network, "compute": compute, "num_envs": 1}
    alone, _ = train(env, A2CConfig(**fields, ent_coef=0.01), 40, **options)
    remote, _ = train(env, A3CConfig(**fields), 40, **options, prepare=lambda agent: connect(agent, server_of(agent)))
    if compute == "native":
        assert_same_parameters(alone, remote)
    for name, array in parameters(alone).items():
        np.testing.assert_allclose(array, parameters(remote)[name], rtol=1e-3, atol=1e-5, err_msg=name)


def test_gradients_of_all_workers_count() -> None:
    """P workers x K pushes of g move the parameters by -lr g P K, and a pull brings what all have done."""
    options: dict[str, Any] = {"optimizer": "rmsprop", "eps": 0.0}
    server: Any = ParameterServer(np.zeros(8, np.float32), [], 3, 1000, **options)
    server._optimizer = SGD(server._parameters, server._gradients)
    for _ in range(10):
        for worker in range(3):
            gradient = np.full(8, 2, np.float32)
            gradient.flags.writeable = False  # as Ray brings it
            reply = server.exchange(worker, 0, Push([], gradient, 0.25))
    np.testing.assert_array_equal(reply.parameters, -0.25 * 2 * 3 * 10)


def test_the_budget_is_met_though_a_worker_is_lost() -> None:
    """What it had claimed is taken by others, and what it says once it was given up changes nothing."""
    server = ParameterServer(np.zeros(3, np.float32), [], 2, 23, optimizer="rmsprop", eps=1e-5)
    gradient = np.ones(3, np.float32)
    lost, other = (
        RemoteParameters(lambda push, w=worker: server.exchange(w, 0, push), 3, [], 2, worker)  # type: ignore[misc]
        for worker in range(2)
    )
    assert (lost.claim(0, 10), other.claim(1, 10)) == (10, 10)
    other.follow(torch.from_numpy(gradient), 0.1)
    other.pull()
    assert other.claim(1, 10) == 3  # the pull has claimed it
    assert other.progress == 10 / 23
    server.expect(0, 1)
    before = server.snapshot().parameters.copy()
    lost.follow(torch.from_numpy(gradient), 0.1)
    lost.pull()
    assert (lost.claim(0, 10), lost.over) == (0, True)
    server.report(0, 0, "late")
    np.testing.assert_array_equal(server.snapshot().parameters, before)
    other.follow(torch.from_numpy(gradient), 0.1)
    other.pull()
    assert other.claim(1, 10) == 10
    other.follow(torch.from_numpy(gradient), 0.1)
    other.pull()
    assert other.claim(1, 10) == 0
    assert server.news(False) == (23, [], None)


def test_no_more_is_claimed_once_a_server_is_stopped() -> None:
    server = ParameterServer(np.zeros(3, np.float32), [], 1, 23, optimizer="adam", eps=1e-5)
    remote = RemoteParameters(lambda push: server.exchange(0, 0, push), 3, [], 1)
    server.stop()
    assert remote.claim(0, 10) == 0


def test_running_statistics_are_those_of_all_workers_and_outlive_them() -> None:
    space, actions = gym.spaces.Box(-9, 9, (3,), np.float32), gym.spaces.Discrete(2)
    network = NetworkConfig(normalize_obs=True)
    main, *workers = (A3C(QUICK, Setting(space, actions, network=network)) for _ in range(4))
    server = server_of(main, num_workers=2)
    rows = np.random.default_rng(0).normal(3, 2, (300, 3)).astype(np.float32)

    def see(agent: A3C, rows: Any) -> None:
        agent.network.features.update((rows,), ALONE)
        remote: Any = agent.engine.descent.sink
        remote.follow(torch.zeros(len(remote.parameters)), 0.0)
        agent.pull()

    for index, agent in enumerate(workers[:2]):
        connect(agent, server, 2, index)
        see(agent, rows[100 * index : 100 * (index + 1)])
    server.expect(1, 1)
    connect(workers[2], server, 2, worker=1, starts=1)
    see(workers[2], rows[200:])
    connect(main, server, 2)
    statistics: Any = main.network.features.statistics
    np.testing.assert_allclose(statistics.mean, rows.mean(0, np.float64), rtol=1e-12)
    np.testing.assert_allclose(statistics.var, rows.var(0, np.float64), rtol=1e-12)
    assert statistics.count == 300


# Mistakes


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"agent": "ppo"}, "distributed=ray is for agent=a3c, not for agent=ppo; .* torchrun --nproc-per-node"),
        ({"agent": "q_learning"}, "distributed=ray is for agent=a3c, not for agent=q_learning; expected agent=a3c$"),
        ({"distributed": "spark"}, "unknown distributed 'spark'"),
        ({"distributed": "none", "ray_address": "auto"}, "ray_address=auto is of use with distributed=ray only"),
        ({"ray_address": "ray://host:10001"}, "ray_address=ray://host:10001: Ray Client is not supported"),
        ({"ray_address": "host"}, "ray_address=host: expected host:port"),
        ({"ray_address": "host:80"}, "ray_address=host:80: expected host:port, with a port of 1024"),
        ({"agent.num_workers": 0}, "agent.num_workers=0 is out of range: it must be at least 1"),
        ({"vectorization": "async"}, "vectorization=async: agent=a3c steps the environments in its workers"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], words: str, tmp_path: Path) -> None:
    env = "FrozenLake-v1" if settings.get("agent") == "q_learning" else "CartPole-v1"
    fields = {"agent": "a3c", "distributed": "ray", **settings}
    with pytest.raises(RlkitError, match=words):
        rlkit.train(env=env, run_dir=tmp_path / "run", **fields)
    assert not (tmp_path / "run").exists()


def test_torchrun_does_not_start_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RlkitError, match="starts its workers itself; expected one process, not torchrun's 2"):
        rlkit.train("a3c", "CartPole-v1", distributed="ray")


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(RlkitError, match=r"distributed=ray needs Ray, .*: pip install -e '\.\[ray\]'"):
        rlkit.train("a3c", "CartPole-v1", distributed="ray", run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_ray_is_imported_only_for_runs_that_ask_for_it() -> None:
    modules = "rlkit.run, rlkit.workers.ray_workers, rlkit.workers.ray_cluster, rlkit.workers.ray_actors"
    code = f"import sys, {modules}; print('ray' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def refused(address: str) -> str:
    with pytest.raises(RlkitError) as caught:
        rlkit.train("a3c", "CartPole-v1", distributed="ray", ray_address=address)
    return str(caught.value)


def test_an_address_where_nobody_listens_is_refused(listener: socket.socket) -> None:
    address = f"127.0.0.1:{listener.getsockname()[1]}"
    listener.close()
    assert refused(address).startswith(
        f"ray_address={address} does not answer within 5 s (Connection refused); expected"
    )


def test_an_address_that_is_silent_is_refused(listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "ANSWER_TIMEOUT", 0.3)
    address = f"127.0.0.1:{listener.getsockname()[1]}"
    assert f"ray_address={address} does not answer" in refused(address)


def test_an_address_of_something_else_is_refused(listener: socket.socket) -> None:
    def answer() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            connection.recv(1000)

    thread = threading.Thread(target=answer)
    thread.start()
    assert "what answers there is not Ray" in refused(f"127.0.0.1:{listener.getsockname()[1]}")
    thread.join()


# On a cluster of several nodes


@contextlib.contextmanager
def cluster_of(head_cpus: int, nodes: int) -> Iterator[Any]:
    """A head, and nodes of two CPUs each: a `ray.cluster_utils.Cluster` that listens on loopback only.

    Each test has its own, since what one has done to its nodes would be felt by the next.
    """
    cluster.import_ray()
    from ray.cluster_utils import Cluster

    # Sockets are in the folder, whose paths may not be long: not below pytest's.
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder:
        patch.setenv("RAY_AUTH_MODE", "disabled")  # a token would be a file at home
        os.makedirs("/tmp/ray", exist_ok=True)  # where the cluster writes its address
        options = {"node_ip_address": "127.0.0.1", "object_store_memory": 80 * 2**20}
        # A node that was killed refuses connections, and is given up after three of them. One that is only slow has
        # ten seconds for each answer: its cores may be busy with something else.
        checks = {"initial_delay_ms": 1000, "period_ms": 500, "timeout_ms": 10_000, "failure_threshold": 3}
        system = {f"health_check_{name}": value for name, value in checks.items()}
        system["worker_register_timeout_seconds"] = int(PATIENCE)
        head = {"num_cpus": head_cpus, "include_dashboard": False, "temp_dir": folder, "_system_config": system}
        made = Cluster(initialize_head=True, head_node_args={**head, **options})
        try:
            for _ in range(nodes):
                made.add_node(wait=False, num_cpus=2, **options)
            made.wait_for_nodes(timeout=PATIENCE)
            yield made
        finally:
            made.shutdown()


def until(condition: Callable[[], object], workers: RayWorkers) -> None:
    """Lets the workers go on until something has happened."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        workers.advance(0.0)


def assert_all_cpus_become_free(address: str) -> None:
    """Once the cluster has noticed who has gone."""
    import ray

    made = cluster.Cluster(address, 0)
    try:
        wait_until(lambda: ray.available_resources().get("CPU", 0) == ray.cluster_resources()["CPU"])
    finally:
        made.close()


def test_a_run_goes_on_when_an_actor_and_a_node_are_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To its exact budget: the actor is started again, the node's worker on another one."""
    monkeypatch.setattr(ray_workers, "CPU_NOTE_DELAY", float("inf"))  # a note that a busy machine would add
    total = 6001
    # Slow until all has been seen, so that the budget is not used up by the workers that are left.
    hurry = tmp_path / "hurry"
    factory = EnvFactory("user_envs:user/Walk-v0", {"step_time": 0.02, "hurry": str(hurry)})
    with cluster_of(head_cpus=0, nodes=3) as made:
        fields: dict[str, Any] = {"distributed": "ray", "ray_address": made.address, "eval_interval": 0, "num_envs": 1}
        agent = A3CConfig(num_workers=3, num_steps=8, learning_rate=3e-3)
        config = TrainConfig(agent, EnvConfig(factory.id), total_timesteps=total, **fields)
        config.validate()
        env = factory()
        main = A3C(agent, Setting(env.observation_space, env.action_space))
        first = parameters(main)
        workers = RayWorkers(config, main, factory)
        notes = workers.supervisor.notes
        with contextlib.closing(contextlib.ExitStack()) as stack:
            stack.callback(workers.stop)
            workers.start()
            locations = [member.location for member in workers._members]
            assert len({location.node for location in locations if location}) == 3
            workers.begin()
            until(lambda: workers.timesteps > 100, workers)
            killed, lost, _ = locations
            assert killed is not None
            assert lost is not None
            os.kill(killed.pid, signal.SIGKILL)
            until(lambda: notes, workers)
            what = f"its process ({killed.pid} on 127.0.0.1) ended, as when it is killed or memory runs out"
            assert notes == [f"worker 0 died: {what}; started again (1 of 3 times)"]
            (node,) = [node for node in made.worker_nodes if node.node_id == lost.node]
            made.remove_node(node, allow_graceful=False)
            until(lambda: len(notes) > 1, workers)
            assert notes[1] == "worker 1 died: node 127.0.0.1 is gone; started again (2 of 3 times)"
            until(lambda: workers._members[1].working, workers)
            moved = workers._members[1].location
            assert moved is not None
            assert moved.node != lost.node
            assert 100 < workers.timesteps < total
            hurry.touch()
            until(lambda: workers.timesteps == total, workers)
        assert workers.timesteps == total
        assert len(notes) == 2
        main.pull()
        assert any((parameters(main)[name] != array).any() for name, array in first.items())
        assert_all_cpus_become_free(made.address)


def test_more_workers_than_the_cluster_has_cpus_are_refused(tmp_path: Path) -> None:
    words = r"^agent.num_workers=99, but the Ray cluster at .* has 2 CPUs, .* at most 2"
    with cluster_of(head_cpus=2, nodes=0) as made:
        fields: dict[str, Any] = {"distributed": "ray", "ray_address": made.address, "agent.num_workers": 99}
        with pytest.raises(RlkitError, match=words):
            rlkit.train("a3c", "CartPole-v1", run_dir=tmp_path / "run", **fields)
    assert not (tmp_path / "run").exists()


def descendants(pid: int) -> Iterator[int]:
    """The processes that a process has started, and those that they have."""
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, children.read_text().split()):
                yield child
                yield from descendants(child)


def test_a_run_whose_server_is_killed_saves_what_it_knows(tmp_path: Path) -> None:
    metrics = tmp_path / "run" / "metrics.csv"

    def kill_server() -> None:
        with contextlib.suppress(AssertionError):  # then the run, which waits for its server to die, ends as it is
            wait_until(lambda: rows_in(metrics) > 1)
        for pid in list(descendants(os.getpid())):
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/cmdline").read_text().startswith("ray::ParameterServer"):
                    os.kill(pid, signal.SIGKILL)

    thread = threading.Thread(target=kill_server)
    with cluster_of(head_cpus=2, nodes=0) as made:
        thread.start()
        fields = {**SMALL, "total_timesteps": 100_000_000, "log_interval": 100, "checkpoint_interval": 0}
        fields |= {"distributed": "ray", "ray_address": made.address, "agent.num_workers": 2, "eval_interval": 0}
        # On a busy machine the run's patience may end before Ray has noticed the death.
        with pytest.raises(RlkitError, match="^the parameter server (died|does not answer), as when it is killed"):
            rlkit.train("a3c", "CartPole-v1", run_dir=tmp_path / "run", **fields)
        thread.join()
        assert_all_cpus_become_free(made.address)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["status"], summary["num_workers"], summary["restarts"]) == ("failed", 2, 0)
    assert summary["total_timesteps"] > 100
    assert rlkit.load(tmp_path / "run" / "checkpoints" / "last").predict(np.zeros(4, np.float32))[0] in (0, 1)


# On a cluster of its own


def listening(pids: set[int]) -> set[str]:
    """The addresses at which processes wait for connections, as /proc writes them."""
    inodes = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            inodes |= {os.readlink(file) for file in Path(f"/proc/{pid}/fd").iterdir()}
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
                found.add(fields[1].partition(":")[0])
    return found


def folders_of(pids: set[int]) -> set[str]:
    """Where clusters of our own have their files, as the processes' arguments name them."""
    found = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            found |= set(re.findall(r"/tmp/rlkit-ray-\w+", Path(f"/proc/{pid}/cmdline").read_text()))
    return found


LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F"}


def test_a_run_starts_a_cluster_that_only_it_sees_and_ctrl_c_ends_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))  # where Ray keeps its token
    arguments = ["agent=a3c", "env=CartPole-v1", "agent.num_workers=2", "total_timesteps=10_000_000", "log_interval=1"]
    arguments += ["distributed=ray", "eval_interval=1000", f"hydra.run.dir={tmp_path / 'run'}"]
    process = run(["-m", "rlkit", *arguments], tmp_path)
    metrics = tmp_path / "run" / "metrics.csv"
    try:
        wait_until(lambda: process.poll() is not None or rows_in(metrics) > 2)
        started = alive(process.pid)
        addresses, folders = listening(started), folders_of(started)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to what Ray has started too
        output, _ = process.communicate(timeout=PATIENCE)
        deadline = time.monotonic() + 50  # some of Ray's own would end by themselves after a minute
        while (left := alive(process.pid)) and time.monotonic() < deadline:
            time.sleep(0.1)
    finally:
        for pid in alive(process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.communicate()
    assert process.returncode == 130, output
    assert len(started) > 6
    assert addresses
    assert addresses <= LOOPBACK
    assert left == set()
    assert folders
    assert not any(os.path.exists(folder) for folder in folders)
    assert "workers: 2, on a Ray cluster of its own on this machine (nodes: 1, CPUs: " in output
    assert "Traceback" not in output
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["status"] == "interrupted"
    assert summary["total_timesteps"] > 0
    assert rlkit.load(tmp_path / "run" / "checkpoints" / "last").predict(np.zeros(4, np.float32))[0] in (0, 1)
