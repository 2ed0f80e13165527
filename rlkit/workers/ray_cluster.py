"""A connection to Ray: to a cluster that there is, or to one on this machine that ends with the run.

Ray is imported here, when a run asks for it, and nowhere else but in `ray_actors.py` and `ray_workers.py`.
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

ANSWER_TIMEOUT = 5.0  # seconds that an address has for its first answer
OBJECT_STORE = 256 * 2**20  # bytes for what travels between processes of a cluster of our own
LOOPBACK = "127.0.0.1"
HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])  # and empty settings
HTTP2_SETTINGS = 4


class Cluster:
    """A connection to Ray, until `close`.

    Without an address it is the one that this process has already, or that RAY_ADDRESS names, or else a cluster of
    our own: bound to loopback, without a dashboard, gone with this process.
    """

    def __init__(self, address: str | None, num_cpus: int) -> None:
        """`num_cpus`: how many workers a cluster of our own takes. Raises RlkitError where there is no connection."""
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
        # Sockets are in there, whose paths may not be long: not in TMPDIR.
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
                object_store_memory=OBJECT_STORE,
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
        # Ray would replace 127.0.0.1 by the machine's address in the network, and listen there or look there.
        resolve, services.resolve_ip_for_localhost = services.resolve_ip_for_localhost, lambda host: host
        try:
            with _sigterm_kept():
                return ray.init(log_to_driver=False, configure_logging=False, **options)
        finally:
            services.resolve_ip_for_localhost = resolve

    def close(self) -> None:
        """Disconnects, and ends a cluster of our own."""
        self._stack.close()


def import_ray() -> Any:
    """The module; raises RlkitError where Ray is not installed."""
    # What Ray's own processes tell about dead ones, in twenty lines, is said by us in one.
    with _environment(RAY_DEDUP_LOGS_SKIP_REGEX="^"):
        try:
            import ray
        except ImportError as error:
            raise RlkitError(
                f"distributed=ray needs Ray, which cannot be imported ({error}): pip install 'rlkit-gym[ray]'"
            ) from error
    return ray


def _check_answers(address: str, name: str) -> None:
    """Raises RlkitError unless something at host:port answers as Ray does: Ray itself would try for minutes."""
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
    """In a process of its own: when its parent was killed, ends what is left of the cluster in the folder.

    Most of Ray's processes end with the one that started them, but some take a minute. All write logs to the folder.
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
    """Keeps Ray from reporting where it listens, and from usage statistics."""
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
    """Sets environment variables that are not set, until the end of the block."""
    new = {name: value for name, value in variables.items() if name not in os.environ}
    os.environ.update(new)
    try:
        yield
    finally:
        for name in new:
            os.environ.pop(name, None)


@contextlib.contextmanager
def _sigterm_kept() -> Iterator[None]:
    """What SIGTERM does is the run's to say, and not Ray's."""
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
