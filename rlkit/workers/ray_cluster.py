"""A connection to a Ray cluster: an existing one, or one on this machine that ends with the run.

Ray is an optional dependency. It is imported inside functions when a run asks for it: here, in `ray_actors.py` and in
`ray_workers.py`, and nowhere else.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from multiprocessing import connection, parent_process
from pathlib import Path
from typing import Any

from rlkit.config import check_ray_address
from rlkit.errors import RlkitError
from rlkit.system.processes import SPAWN, interrupts_deferred, num_cores

ANSWER_TIMEOUT = 5.0
"""Seconds to wait for the first answer from a cluster's address."""
OBJECT_STORE_BYTES = 256 * 2**20
"""Size of Ray's object store, which holds messages between actors, in a cluster that we start."""
LOOPBACK = "127.0.0.1"
"""Address that a cluster which we start listens on, so that no other machine can reach it."""
HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""First bytes of an HTTP/2 client, which gRPC and so Ray expect: the preface, then an empty SETTINGS frame."""
HTTP2_SETTINGS = 4
"""Type of the HTTP/2 frame that a server answers the preface with."""


class Cluster:
    """A connection to Ray, open until `close`.

    Without an address it uses the connection that this process has already, or the cluster that RAY_ADDRESS names. If
    there is neither, it starts a cluster of its own on this machine, which listens on loopback only, has no dashboard,
    and ends with this process.
    """

    def __init__(self, address: str | None, num_cpus: int) -> None:
        """Connects, or starts a cluster with at least `num_cpus` CPUs, one for each worker.

        Raises RlkitError if that fails.
        """
        ray = import_ray()
        self._stack = ExitStack()
        self.own = False
        if ray.is_initialized():
            if address is not None:
                raise RlkitError(f"ray_address={address}: this process is connected to Ray already; leave it out")
            self.name = "the Ray cluster that this process is connected to"
            return
        if address is None:
            address = os.environ.get("RAY_ADDRESS", "local")
            if address != "local":
                check_ray_address("RAY_ADDRESS", address)
        self.own = address == "local"
        self.name = "a Ray cluster of its own on this machine"
        try:
            self._stack.enter_context(_quiet())
            if self.own:
                self._start(num_cpus)
            else:
                self._connect(address)
        except BaseException:
            self.close()
            raise

    def _start(self, num_cpus: int) -> None:
        # Ray puts Unix sockets there, whose paths must be short: so /tmp, and not TMPDIR.
        folder = tempfile.mkdtemp(prefix="rlkit-ray-", dir="/tmp")
        self._stack.callback(shutil.rmtree, folder, ignore_errors=True)
        with interrupts_deferred():
            sweeper = SPAWN.Process(target=sweep_after_parent, args=(folder,), daemon=True)
            sweeper.start()
        self._stack.callback(_end_process, sweeper)
        try:
            info = self._init(
                address="local",
                num_cpus=max(num_cpus, num_cores()),
                object_store_memory=OBJECT_STORE_BYTES,
                include_dashboard=False,
                _node_ip_address=LOOPBACK,
                _temp_dir=folder,
            ).address_info
        except Exception as error:
            raise RlkitError(f"distributed=ray: Ray could not be started here: {_one_line(error)}") from error
        if info["node_ip_address"] != LOOPBACK:
            raise RlkitError(
                f"distributed=ray: this version of Ray listens on {info['node_ip_address']}, not only on this machine; "
                "expected the version in constraints.txt, or start a cluster yourself and name it: ray_address=auto"
            )

    def _connect(self, address: str) -> None:
        from ray._private import services

        try:
            if address == "auto":
                found = services.get_ray_address_from_environment(address, None)
                _check_answers(found, f"ray_address=auto, which is {found},")
            else:
                _check_answers(address, f"ray_address={address}")
            self.name = f"the Ray cluster at {self._init(address=address).address_info['gcs_address']}"
        except RlkitError:
            raise
        except Exception as error:
            hint = ""
            if "any running Ray instance" in str(error):
                error = ConnectionError("no Ray cluster runs on this machine")
                hint = "; `ray start --head` starts one, and ray_address=host:port names another"
            elif "No node info found" in str(error):
                hint = "; this machine has to be one of the cluster's: run there, or use `ray job submit`"
            elif "InvalidAuthToken" in f"{error} {error.__cause__}":
                hint = "; it asks for a token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN as on its nodes"
            raise RlkitError(f"ray_address={address}: {_one_line(error)}{hint}") from error

    def _init(self, **options: Any) -> Any:
        import ray
        from ray._private import services

        self._stack.callback(ray.shutdown)
        # Ray would replace 127.0.0.1 by the machine's network address, and then listen or connect there instead.
        resolve, services.resolve_ip_for_localhost = services.resolve_ip_for_localhost, lambda host: host
        try:
            with _sigterm_kept():
                return ray.init(log_to_driver=False, configure_logging=False, **options)
        finally:
            services.resolve_ip_for_localhost = resolve

    def close(self) -> None:
        """Disconnects, and ends the cluster if we started it."""
        self._stack.close()


def import_ray() -> Any:
    """Imports and returns the module `ray`; raises RlkitError if it is not installed."""
    # Ray's processes print twenty lines about each process that dies, of which we tell the user in one.
    with _environment(RAY_DEDUP_LOGS_SKIP_REGEX="^"):
        try:
            import ray
        except ImportError as error:
            raise RlkitError(
                f"distributed=ray needs Ray, which cannot be imported ({error}): pip install -e '.[ray]' in a clone"
            ) from error
    return ray


def _check_answers(address: str, name: str) -> None:
    """Raises RlkitError unless a gRPC server, as Ray's is, answers at host:port; Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), ANSWER_TIMEOUT) as connection:
            connection.settimeout(ANSWER_TIMEOUT)
            connection.sendall(HTTP2_PREFACE)
            answer = connection.recv(9)
    except OSError as error:
        why = "no answer" if isinstance(error, TimeoutError) else error.strerror or str(error)
        raise RlkitError(
            f"{name} does not answer within {ANSWER_TIMEOUT:.0f} s ({why}); expected the address of a "
            "running Ray cluster, as `ray start --head` prints it, or none to start one here"
        ) from error
    if len(answer) < 4 or answer[3] != HTTP2_SETTINGS:
        raise RlkitError(f"{name}: what answers there is not Ray, whose port is 6379 by default")


def sweep_after_parent(folder: str) -> None:
    """Waits for the parent process to end, then kills the cluster's remaining processes and removes its folder.

    Runs in a process of its own, for the case that the parent was killed. Most of Ray's processes end with the one
    that started them, but some take a minute. They are found by their log files, which are all in the folder.
    """
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            files = [os.readlink(file) for file in (process / "fd").iterdir()]
            if b"ray" in (process / "cmdline").read_bytes() and any(file.startswith(folder) for file in files):
                os.kill(int(process.name), signal.SIGKILL)
    shutil.rmtree(folder, ignore_errors=True)


def _end_process(process: Any) -> None:
    process.kill()
    process.join()
    process.close()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps Ray from printing its address, and from sending usage statistics, until the block ends."""
    logger = logging.getLogger("ray")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with _environment(RAY_USAGE_STATS_ENABLED="0"):
            yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def _environment(**variables: str) -> Iterator[None]:
    """Sets environment variables, unless the user has set them, until the block ends."""
    new = {name: value for name, value in variables.items() if name not in os.environ}
    os.environ.update(new)
    try:
        yield
    finally:
        for name in new:
            os.environ.pop(name, None)


@contextlib.contextmanager
def _sigterm_kept() -> Iterator[None]:
    """Restores the handler of SIGTERM after the block: Ray replaces it, but the run has one of its own."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
