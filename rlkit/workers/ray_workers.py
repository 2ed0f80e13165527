"""A3C on a Ray cluster: workers on its nodes, and a parameter server on the node of the main process."""

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
    TIME_TO_STOP,
    Evaluator,
    LostParameters,
    Reports,
    budget_of,
    check_vectorization,
    crowded,
    tell,
)
from rlkit.workers.parameter_server import News, ParameterServer, Push, RemoteParameters, Reply
from rlkit.workers.ray_actors import Place, RemoteWorker
from rlkit.workers.ray_cluster import Cluster, import_ray
from rlkit.workers.supervisor import Failure, Supervisor
from rlkit.workers.worker import Task

BACKUP_INTERVAL = 1.0  # seconds between copies of the parameters, in case that the server dies
TIME_FOR_A_PLACE = 180.0  # seconds that a run waits for CPUs, and processes on them, when none of its workers has one
TIME_TO_NOTE = 5.0  # seconds without a CPU after which a restarted worker is mentioned
SERVER_TIMEOUT = 60.0  # seconds for an answer of the server, which is on this machine


@dataclass
class Member:
    """A worker, and those that take its place when it dies."""

    index: int
    actor: Any = None
    call: Any = None
    """What it is doing; the call's end is the next thing to happen to it."""
    starts: int = 0
    place: Place | None = None
    """None: Ray has no CPU for it yet."""
    ready: bool = False
    proven: bool = False
    """Whether it or one before it has ever been ready."""
    working: bool = False
    done: bool = False
    since: float = 0.0
    """When it was started."""
    noted: bool = False
    """Whether the user knows that it waits for a place."""


class RayWorkers:
    """The workers as actors on a Ray cluster; see `rlkit.workers.asynchronous.Company`.

    Raises RlkitError for what A3C cannot do, where there is no cluster, and where a worker cannot be started.
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
        """The parameters as they were last seen."""
        self._copied_at = 0.0
        self._begun = self._stopped = False
        self._description = ""

    def __str__(self) -> str:
        return self._description

    # What the trainer asks for

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
            self.supervisor.notes += crowded(self.num_workers)
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
            self._hear(0.1)

    def begin(self) -> None:
        self._begun = True
        for member in self._members:
            self._let_work(member)

    def advance(self, spent: float) -> tuple[list[Episode], dict[str, float]]:
        self._hear(0.1)
        while self._over and any(member.working for member in self._members):
            self._hear(0.1)
        return self._reports.taken()

    def finish_evaluations(self) -> None:
        while self.evaluator.busy:
            self._hear(0.1)

    def stop(self) -> list[Episode]:
        if self._stopped:
            return []
        try:
            for process in self.evaluator.members:
                tell(process, None)
            if self._begun:
                self._let_finish()
            for _, message in self.supervisor.stop(TIME_TO_STOP):
                self._note(message)
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
        # On this node, so that it is not lost with another one: it and the main process need each other.
        on_this_node = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(here, soft=False)
        options = {"num_cpus": 0, "max_restarts": 0, "scheduling_strategy": on_this_node}
        actor = ray.remote(ParameterServer).options(**options)
        self._server = actor.remote(
            *(self._parameters, self._statistics, self.num_workers, self._total),
            optimizer=config.optimizer,
            eps=config.optimizer_eps,
            compute=self._agent.compute,
        )
        self._latest = Reply(self._parameters, [])
        self._latest = self._ask("snapshot", timeout=TIME_FOR_A_PLACE)  # its process has to start first
        remote = RemoteParameters(self._current, len(self._parameters), self._statistics, self.num_workers)
        self._agent.connect(remote)

    def _ask(self, method: str, *arguments: Any, timeout: float = SERVER_TIMEOUT) -> Any:
        """What the server answers; raises LostParameters if it is gone."""
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
        """For the main process's agent, which has nothing to send: the parameters, as new as they are to be had."""
        if self._server is not None and not self._stopped:
            with suppress(LostParameters):  # the next word to the server will say so
                self._latest = self._ask("snapshot")
        assert self._latest is not None
        return self._latest

    def _hear_server(self) -> None:
        """Takes in what the workers have reported to the server."""
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
        # A worker is started again by us, who count and tell, and not by Ray.
        options = {"num_cpus": 1, "max_restarts": 0, "scheduling_strategy": "SPREAD"}
        member.actor = ray.remote(RemoteWorker).options(**options).remote(member.index, member.starts)
        member.starts += 1
        member.call, member.place, member.ready, member.working = member.actor.arrive.remote(), None, False, False
        member.since, member.noted = time.monotonic(), False

    def _let_work(self, member: Member) -> None:
        arguments = (self._server, len(self._parameters), self._statistics, self.num_workers)
        member.call, member.working = member.actor.work.remote(*arguments), True

    def _hear(self, timeout: float) -> None:
        """Takes in what has happened, for so long at most."""
        import ray

        calls = {member.call: member for member in self._members if member.call is not None}
        ended: list[Any] = []
        if calls:
            ended, _ = ray.wait(list(calls), timeout=timeout)
        else:
            time.sleep(timeout)
        self._hear_server()  # before workers complain of its death
        for call in ended:
            self._ended(calls[call])
        for _, message in self.supervisor.wait(0):
            self._note(message)
        self.evaluator.go_on()
        self._check_places()

    def _note(self, message: Any) -> None:
        if isinstance(message, Evaluation):
            self.evaluator.take(message)

    def _ended(self, member: Member) -> None:
        """One of a worker's calls has ended: with a result, with the reason of its failure, or with the worker."""
        import ray

        if member.call is None:
            return  # it was on the same node as another one that has been dealt with
        call, member.call = member.call, None
        try:
            result = ray.get(call)
        except ray.exceptions.RayError as error:
            self._died(member, error)
            return
        if isinstance(result, Failure):
            self._start_again([member], f"worker {member.index}", _with_hint(result.why))
        elif isinstance(result, Place):
            member.place = result
            path = [os.path.abspath(folder) for folder in sys.path]
            member.call = member.actor.prepare.remote(self._packed, rlkit.__version__, path)
        elif member.working:
            member.done, member.working = True, False
        else:
            member.ready = member.proven = True
            if self._begun:
                self._let_work(member)

    def _died(self, member: Member, error: Exception) -> None:
        place = member.place
        if place is None or not _is_lost(place, error):
            self._start_again([member], f"worker {member.index}", _cause(error, place))
            return
        lost = [other for other in self._members if not other.done and other.place and other.place.node == place.node]
        names = ", ".join(str(other.index) for other in lost)
        name = f"worker{'s' if len(lost) > 1 else ''} {names}"
        self._start_again(lost, name, f"node {place.host} is gone")

    def _start_again(self, members: list[Member], name: str, why: str) -> None:
        """Starts members elsewhere, or where they were, after what counts as one death."""
        import ray

        for member in members:
            member.call = None
            ray.kill(member.actor)
            self._ask("expect", member.index, -1)  # the others take what it had claimed, until it is back
            member.working = False
        if self._over:
            return
        self.supervisor.note_death(name, why, proven=all(member.proven for member in members))
        for member in members:
            self._start(member)

    def _check_places(self) -> None:
        """Speaks of workers that wait for a CPU; raises RlkitError when the run waits with them."""
        waiting = [member for member in self._members if member.call is not None and member.place is None]
        waited = {member.index: time.monotonic() - member.since for member in waiting}
        alone = not self._begun or len(waiting) == self.num_workers
        if alone and max(waited.values(), default=0) > TIME_FOR_A_PLACE:
            raise RlkitError(
                f"{len(waiting)} of {self.num_workers} workers have waited {TIME_FOR_A_PLACE:.0f} s for a CPU; "
                f"expected fewer than agent.num_workers={self.num_workers}, or a cluster with more free CPUs"
            )
        for member in waiting:
            if self._begun and not member.noted and waited[member.index] > TIME_TO_NOTE:
                member.noted = True
                self.supervisor.notes.append(f"worker {member.index} waits for a free CPU; the others go on")

    # The end

    def _let_finish(self) -> None:
        """Lets the workers end their rollouts, for a moment, and hears the last of them."""
        import ray

        with suppress(LostParameters):
            if self._server is None:
                return
            self._ask("stop")
            deadline = time.monotonic() + TIME_TO_STOP
            while (calls := [m.call for m in self._members if m.working]) and time.monotonic() < deadline:
                ended, _ = ray.wait(calls, timeout=max(0.0, deadline - time.monotonic()))
                for member in self._members:
                    member.working = member.working and member.call not in ended
            self._hear_server()
            self._latest = self._ask("snapshot")

    def _end(self) -> None:
        """Ends our actors, and the cluster if it is ours."""
        if self._cluster is None:
            return
        import ray

        with suppress(Exception):  # whatever has become of the cluster, nothing of ours must stay in it
            for member in self._members:
                ray.kill(member.actor)
            if self._server is not None:
                ray.kill(self._server)
        self._cluster.close()
        self._cluster = None


def _is_lost(place: Place, error: Exception) -> bool:
    """Whether it was the node that died."""
    import ray

    alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
    return place.node not in alive or "its node has died" in str(error)


def _cause(error: Exception, place: Place | None) -> str:
    """What Ray's exception says, in a few words."""
    import ray

    if isinstance(error, ray.exceptions.OutOfMemoryError):
        return "its node ran out of memory"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if missing := [line for line in lines if line.startswith("ModuleNotFoundError")]:
        return _with_hint(missing[-1])
    if isinstance(error, ray.exceptions.ActorDiedError) and "process has died" in str(error):
        process = f"its process ({place.pid} on {place.host})" if place else "its process"
        return f"{process} ended, as when it is killed or memory runs out"
    return lines[-1] if lines else type(error).__name__


def _with_hint(why: str) -> str:
    """The reason of a failure, with what to do about a module that a node lacks."""
    hint = "; every node of the cluster needs rlkit-gym[ray], and the environment's module"
    return why + hint * ("ModuleNotFoundError" in why)
