"""A3C's worker as a Ray actor, which runs on any node of the cluster.

The module is light to import, so that an actor can report its node before it loads torch. The other actor of a run is
`rlkit.workers.parameter_server.ParameterServer`, which knows nothing of Ray.
"""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

import rlkit
from rlkit.workers.supervisor import Failure

if TYPE_CHECKING:
    from rlkit.workers.worker import Report, Worker


class Location(NamedTuple):
    """The node and the process that an actor runs in."""

    node: str
    """Ray's id of the node."""
    host: str
    """Network address of the node."""
    pid: int
    """Process id of the actor."""


class RemoteWorker:
    """A worker on whichever node has a free CPU; its methods are called in the order `arrive`, `prepare`, `work`."""

    def __init__(self, index: int, starts: int) -> None:
        """Makes worker `index`; `starts` counts its predecessors, in whose stead it was started."""
        self._index, self._starts = index, starts
        self._stack = ExitStack()
        self._worker: Worker | None = None

    def arrive(self) -> Location:
        """Returns the actor's location; Ray answers the call as soon as the actor has a CPU."""
        import ray

        return Location(ray.get_runtime_context().get_node_id(), ray.util.get_node_ip_address(), os.getpid())

    def prepare(self, packed: bytes, version: str, path: list[str]) -> Failure | None:
        """Makes environments and agent from a packed `rlkit.workers.worker.Task`; returns the failure, if there is one.

        `version` is the main process's version of rlkit, which must be this node's too. `path` is the main process's
        `sys.path`; folders of it that exist on this node are searched for modules as well.
        """
        sys.path += [folder for folder in path if folder not in sys.path and os.path.exists(folder)]
        from rlkit.system.threads import one_core
        from rlkit.workers.worker import Worker, failure

        if version != rlkit.__version__:
            return Failure(f"its node has rlkit {rlkit.__version__}, the main process {version}: they must be the same")
        try:
            self._stack.enter_context(one_core())
            self._worker = Worker(packed, self._index, self._starts, self._stack)
        except Exception as error:
            return failure(error)
        return None

    def work(self, server: Any, size: int, statistics: list[int], num_workers: int) -> Failure | None:
        """Collects and learns until the budget is spent; returns the failure, if there is one.

        `server` is the handle of the `ParameterServer` actor; the other arguments are the shape of what it owns, see
        `RemoteParameters`.
        """
        import ray

        from rlkit.workers.parameter_server import Push, RemoteParameters, Reply
        from rlkit.workers.worker import failure

        def exchange(push: Push) -> Reply:
            reply: Reply = ray.get(server.exchange.remote(self._index, self._starts, push))
            return reply

        def send(report: Report) -> None:
            self._reported = server.report.remote(self._index, self._starts, report)

        assert self._worker is not None
        try:
            with self._stack:
                remote = RemoteParameters(exchange, size, statistics, num_workers, self._index)
                self._worker.agent.connect(remote)
                self._worker.work(remote, send)
                ray.get(self._reported)
        except ray.exceptions.RayActorError:
            return Failure("the parameter server does not answer it")
        except Exception as error:
            return failure(error)
        return None
