"""A3C on a Ray cluster: workers on any of its nodes, and a parameter server on the main process's node."""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import rlkit
from rlkit.agents.a3c import A3C
from rlkit.collector import Episode
from rlkit.config import TrainConfig
from rlkit.envs import EnvFactory, find_spec
from rlkit.episodes import Evaluation
from rlkit.errors import RlkitError
from rlkit.workers.asynchronous import (
    STOP_TIMEOUT,
    Evaluator,
    LostParameters,
    Reports,
    budget_of,
    check_vectorization,
    crowding_warning,
    send,
)
from rlkit.workers.parameter_server import News, ParameterServer, Push, RemoteParameters, Reply
from rlkit.workers.ray_actors import Location, RemoteWorker
from rlkit.workers.ray_cluster import Cluster, import_ray
from rlkit.workers.supervisor import Failure, Supervisor
from rlkit.workers.worker import Task

BACKUP_INTERVAL = 1.0
"""Seconds between the main process's copies of the parameters, which are saved if the server dies."""
CPU_TIMEOUT = 180.0
"""Seconds that a run waits for CPUs, and for Ray to start processes on them, while none of its workers has one."""
CPU_NOTE_DELAY = 5.0
"""Seconds without a CPU after which the user is told that a restarted worker waits for one."""
SERVER_TIMEOUT = 60.0
"""Seconds to wait for an answer of the parameter server, which runs on this machine."""


@dataclass
class Member:
    """A worker's state, as the main process knows it; it goes on with a new actor when the worker dies."""

    index: int
    """Index among the workers."""
    actor: Any = None
    """Ray's handle of the actor."""
    call: Any = None
    """Ray's reference to the pending call of the actor; None if no call is pending."""
    starts: int = 0
    """Number of times that it has been started."""
    location: Location | None = None
    """The actor's node and process; None while Ray has no CPU for it."""
    ready: bool = False
    """True once its environments and agent are made."""
    proven: bool = False
    """True if it or a predecessor has ever been ready: then starting it again is worth a try."""
    working: bool = False
    """True while it collects and learns."""
    done: bool = False
    """True once it has ended because the budget was spent."""
    since: float = 0.0
    """Time of its last start, by `time.monotonic`."""
    noted: bool = False
    """True if the user has been told that it waits for a CPU."""


class RayWorkers:
    """A pool of workers that are actors on a Ray cluster; see `rlkit.workers.asynchronous.WorkerPool`.

    Raises RlkitError for a vectorization that A3C does not have, and if there is no cluster or a worker cannot be
    started.
    """

    def __init__(self, config: TrainConfig, agent: A3C, factory: EnvFactory) -> None:
        check_vectorization(config)
        import_ray()
        self._config, self._agent = config, agent
        self._parameters, self._statistics = agent.shareable()
        self._packed = Task(config, factory, find_spec(factory.id)).packed()
        self.num_workers = 0 if config.agent.num_workers == "auto" else config.agent.num_workers
        self.timesteps, self._total = 0, budget_of(config)
        self.evaluator = Evaluator(config, factory)
        self.supervisor = Supervisor(self.evaluator.members, config.agent.max_restarts)
        self._reports = Reports()
        self._members: list[Member] = []
        self._cluster: Cluster | None = None
        self._server: Any = None
        self._latest: Reply | None = None
        """The server's last reply: the parameters that remain if it dies."""
        self._copied_at = 0.0
        self._begun = self._stopped = False
        self._description = ""

    def __str__(self) -> str:
        return self._description

    # The methods of WorkerPool, for the trainer

    def start(self) -> None:
        wanted = self.num_workers
        self._cluster = cluster = Cluster(self._config.ray_address, wanted)
        import ray

        cpus = int(ray.cluster_resources().get("CPU", 0))
        if wanted > cpus or cpus == 0:
            raise RlkitError(
                f"agent.num_workers={wanted or 'auto'}, but {cluster.name} has {cpus} CPUs, of which each worker takes "
                f"one; expected at most {cpus}, or more nodes"
            )
        self.num_workers = wanted or cpus
        if cluster.own:
            self.supervisor.notes += crowding_warning(self.num_workers)
        nodes = sum(node["Alive"] for node in ray.nodes())
        self._description = (
            f"workers: {self.num_workers}, on {cluster.name} (nodes: {nodes}, CPUs: {cpus}); environments of each: "
            f"{self._config.num_envs}"
        )
        self._start_server()
        self.supervisor.start()
        self._members = [Member(index) for index in range(self.num_workers)]
        for member in self._members:
            self._start(member)
        while not all(member.ready for member in self._members):
            self._receive(0.1)

    def begin(self) -> None:
        self._begun = True
        for member in self._members:
            self._let_work(member)

    def advance(self, spent: float) -> tuple[list[Episode], dict[str, float]]:
        self._receive(0.1)
        while self._over and any(member.working for member in self._members):
            self._receive(0.1)
        return self._reports.taken()

    def finish_evaluations(self) -> None:
        while self.evaluator.busy:
            self._receive(0.1)

    def stop(self) -> list[Episode]:
        if self._stopped:
            return []
        try:
            for process in self.evaluator.members:
                send(process, None)
            if self._begun:
                self._let_finish()
            for _, message in self.supervisor.stop(STOP_TIMEOUT):
                self._take(message)
            return self._reports.taken()[0]
        finally:
            self._stopped = True
            self._end()

    @property
    def _over(self) -> bool:
        return self.timesteps == self._total

    # The server

    def _start_server(self) -> None:
        import ray

        here = ray.get_runtime_context().get_node_id()
        config = self._config.agent
        # The run cannot go on without the server, nor without this process. So keep both on one node: then the loss of
        # another node ends no more than the workers there.
        on_this_node = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(here, soft=False)
        options = {"num_cpus": 0, "max_restarts": 0, "scheduling_strategy": on_this_node}
        actor = ray.remote(ParameterServer).options(**options)
        self._server = actor.remote(
            *(self._parameters, self._statistics, self.num_workers, self._total),
            optimizer=config.optimizer,
            eps=config.optimizer_eps,
        )
        self._latest = Reply(self._parameters, [])
        self._latest = self._ask("snapshot", timeout=CPU_TIMEOUT)  # its process has to start first
        remote = RemoteParameters(self._current, len(self._parameters), self._statistics, self.num_workers)
        self._agent.connect(remote)

    def _ask(self, method: str, *arguments: Any, timeout: float = SERVER_TIMEOUT) -> Any:
        """Calls a method of the server and returns its answer; raises LostParameters if the server is gone."""
        import ray

        try:
            return ray.get(getattr(self._server, method).remote(*arguments), timeout=timeout)
        except (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError) as error:
            why = "does not answer" if isinstance(error, ray.exceptions.GetTimeoutError) else "died"
            self._server = None
            raise LostParameters(
                f"the parameter server {why}, as when it is killed or memory runs out; checkpoints/last is of a moment "
                "before"
            ) from error

    def _current(self, push: Push) -> Reply:
        """Returns the newest parameters that can be had: the server's, or the last copy if the server is gone.

        The main process's agent pulls its parameters by this. It has no gradients, so the push is ignored.
        """
        if self._server is not None and not self._stopped:
            with suppress(LostParameters):  # the next call to the server will raise it again
                self._latest = self._ask("snapshot")
        assert self._latest is not None
        return self._latest

    def _receive_news(self) -> None:
        """Gets the workers' reports and the progress from the server, now and then with a copy of the parameters."""
        now = time.monotonic()
        copy = now - self._copied_at > BACKUP_INTERVAL
        if self._server is None:
            raise LostParameters("the parameter server is gone")
        news: News = self._ask("news", copy)
        if news.reply is not None:
            self._latest, self._copied_at = news.reply, now
        self.timesteps = news.done
        for report in news.reports:
            self._reports.add(report)

    # The workers

    def _start(self, member: Member) -> None:
        import ray

        self._ask("expect", member.index, member.starts)
        # Ray must not restart a worker by itself: we do, and count the restarts and tell the user.
        options = {"num_cpus": 1, "max_restarts": 0, "scheduling_strategy": "SPREAD"}
        member.actor = ray.remote(RemoteWorker).options(**options).remote(member.index, member.starts)
        member.starts += 1
        member.call, member.location, member.ready, member.working = member.actor.arrive.remote(), None, False, False
        member.since, member.noted = time.monotonic(), False

    def _let_work(self, member: Member) -> None:
        arguments = (self._server, len(self._parameters), self._statistics, self.num_workers)
        member.call, member.working = member.actor.work.remote(*arguments), True

    def _receive(self, timeout: float) -> None:
        """Deals with calls that end, reports and messages, waiting up to `timeout` for them."""
        import ray

        calls = {member.call: member for member in self._members if member.call is not None}
        ended: list[Any] = []
        if calls:
            ended, _ = ray.wait(list(calls), timeout=timeout)
        else:
            time.sleep(timeout)
        self._receive_news()  # first, so that a dead server is named as the reason, and not the workers that miss it
        for call in ended:
            self._ended(calls[call])
        for _, message in self.supervisor.wait(0):
            self._take(message)
        self.evaluator.go_on()
        self._check_cpus()

    def _take(self, message: Any) -> None:
        if isinstance(message, Evaluation):
            self.evaluator.take(message)

    def _ended(self, member: Member) -> None:
        """Acts on the end of a worker's call: it returned a result or a `Failure`, or the worker died in it."""
        import ray

        if member.call is None:
            return  # its node is gone, which was dealt with when another worker of the node was
        call, member.call = member.call, None
        try:
            result = ray.get(call)
        except ray.exceptions.RayError as error:
            self._died(member, error)
            return
        if isinstance(result, Failure):
            self._start_again([member], f"worker {member.index}", _with_hint(result.why))
        elif isinstance(result, Location):
            member.location = result
            path = [os.path.abspath(folder) for folder in sys.path]
            member.call = member.actor.prepare.remote(self._packed, rlkit.__version__, path)
        elif member.working:
            member.done, member.working = True, False
        else:
            member.ready = member.proven = True
            if self._begun:
                self._let_work(member)

    def _died(self, member: Member, error: Exception) -> None:
        location = member.location
        if location is None or not _is_lost(location, error):
            self._start_again([member], f"worker {member.index}", _cause(error, location))
            return
        lost = [
            other
            for other in self._members
            if not other.done and other.location and other.location.node == location.node
        ]
        names = ", ".join(str(other.index) for other in lost)
        name = f"worker{'s' if len(lost) > 1 else ''} {names}"
        self._start_again(lost, name, f"node {location.host} is gone")

    def _start_again(self, members: list[Member], name: str, why: str) -> None:
        """Restarts workers, on whichever nodes have CPUs; however many they are, they count as one death.

        Raises RlkitError if there were too many deaths already.
        """
        import ray

        for member in members:
            member.call = None
            ray.kill(member.actor)
            self._ask("expect", member.index, -1)  # frees its claimed steps; no start has the number -1
            member.working = False
        if self._over:
            return
        self.supervisor.note_death(name, why, proven=all(member.proven for member in members))
        for member in members:
            self._start(member)

    def _check_cpus(self) -> None:
        """Notes for the user that workers wait for a CPU; raises RlkitError if the whole run waits for too long."""
        waiting = [member for member in self._members if member.call is not None and member.location is None]
        waited = {member.index: time.monotonic() - member.since for member in waiting}
        run_waits = not self._begun or len(waiting) == self.num_workers
        if run_waits and max(waited.values(), default=0) > CPU_TIMEOUT:
            raise RlkitError(
                f"{len(waiting)} of {self.num_workers} workers have waited {CPU_TIMEOUT:.0f} s for a CPU; "
                f"expected fewer than agent.num_workers={self.num_workers}, or a cluster with more free CPUs"
            )
        for member in waiting:
            if self._begun and not member.noted and waited[member.index] > CPU_NOTE_DELAY:
                member.noted = True
                self.supervisor.notes.append(f"worker {member.index} waits for a free CPU; the others go on")

    # The end

    def _let_finish(self) -> None:
        """Gives the workers a moment to end their rollouts, and receives their last reports."""
        import ray

        with suppress(LostParameters):
            if self._server is None:
                return
            self._ask("stop")
            deadline = time.monotonic() + STOP_TIMEOUT
            while (calls := [m.call for m in self._members if m.working]) and time.monotonic() < deadline:
                ended, _ = ray.wait(calls, timeout=max(0.0, deadline - time.monotonic()))
                for member in self._members:
                    member.working = member.working and member.call not in ended
            self._receive_news()
            self._latest = self._ask("snapshot")

    def _end(self) -> None:
        """Kills our actors, and ends the cluster if we started it."""
        if self._cluster is None:
            return
        import ray

        with suppress(Exception):  # the cluster may be gone; where it is not, no actor of ours may stay
            for member in self._members:
                ray.kill(member.actor)
            if self._server is not None:
                ray.kill(self._server)
        self._cluster.close()
        self._cluster = None


def _is_lost(location: Location, error: Exception) -> bool:
    """Returns True if the node has died, and not the actor alone."""
    import ray

    alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
    return location.node not in alive or "its node has died" in str(error)


def _cause(error: Exception, location: Location | None) -> str:
    """Puts Ray's exception into a few words."""
    import ray

    if isinstance(error, ray.exceptions.OutOfMemoryError):
        return "its node ran out of memory"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if missing := [line for line in lines if line.startswith("ModuleNotFoundError")]:
        return _with_hint(missing[-1])
    if isinstance(error, ray.exceptions.ActorDiedError) and "process has died" in str(error):
        process = f"its process ({location.pid} on {location.host})" if location else "its process"
        return f"{process} ended, as when it is killed or memory runs out"
    return lines[-1] if lines else type(error).__name__


def _with_hint(why: str) -> str:
    """Adds to the reason of a failure, if a node lacks a module, what the user can do about it."""
    hint = "; every node of the cluster needs rlkit with Ray, and the environment's module"
    return why + hint * ("ModuleNotFoundError" in why)
