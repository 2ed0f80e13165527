"""A3C's worker as an actor: what runs on the nodes of a Ray cluster.

Light to import, so that a worker which has a place can say so before it loads torch. The other actor is
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


class Place(NamedTuple):
    """Where an actor is."""

    node: str
    """Ray's id of the node."""
    host: str
    """The node's address."""
    pid: int
    """The actor's process."""


class RemoteWorker:
    """A worker on whatever node Ray has a CPU for: its calls are `arrive`, `prepare` and `work`, in this order."""

    def __init__(self, index: int, starts: int) -> None:
        """Number `index`; `starts` tells it from those before it."""
        self._index, self._starts = index, starts
        self._stack = ExitStack()
        self._worker: Worker | None = None

    def arrive(self) -> Place:
        """Says where it is."""
        import ray

        return Place(ray.get_runtime_context().get_node_id(), ray.util.get_node_ip_address(), os.getpid())

    def prepare(self, packed: bytes, version: str, path: list[str]) -> Failure | None:
        """Makes environments and agent from a packed `rlkit.workers.worker.Task` of that version of rlkit.

        Modules are also looked for in `path`, where the main process does, as far as this node has these folders.
        """
        sys.path += [folder for folder in path if folder not in sys.path and os.path.exists(folder)]
        from rlkit.workers.worker import Worker, failure, one_thread

        if version != rlkit.__version__:
            return Failure(f"its node has rlkit {rlkit.__version__}, the main process {version}: they must be the same")
        try:
            self._stack.enter_context(one_thread())
            self._worker = Worker(packed, self._index, self._starts, self._stack)
        except Exception as error:
            return failure(error)
        return None

    def work(self, server: Any, size: int, statistics: list[int], num_workers: int) -> Failure | None:
        """Collects and learns until the budget is spent; `server` is the actor with the parameters."""
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
