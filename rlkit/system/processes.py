"""Tools for processes that work together: shielding them from Ctrl-C, ending with the parent, shared memory, a lock.

The kernel cleans all of it up: shared memory and lock are files without a name, and a file without a name is gone
when the last process that has it open ends, however it ends.
"""

from __future__ import annotations

import ast
import contextlib
import fcntl
import importlib
import math
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from multiprocessing import (
    active_children,
    connection,
    current_process,
    get_context,
    parent_process,
    reduction,
    resource_tracker,
)
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

SPAWN = get_context("spawn")
"""Start method of all our processes: torch has threads, and a forked copy of a process with threads may hang."""


def num_cores() -> int:
    """Returns the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


@contextlib.contextmanager
def interrupts_deferred() -> Iterator[None]:
    """Holds Ctrl-C back from this thread until the block ends, and for good from processes started inside the block.

    SIGHUP as well: a terminal that is lost sends it to all of its processes, and the others end with their parent.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        resource_tracker.ensure_running()  # here, since multiprocessing would unblock SIGINT in starting it
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ending_signals() -> list[signal.Signals]:
    """Returns the signals that ask this process to end, apart from those that it ignores, as nohup has it for SIGHUP.

    Cluster schedulers send SIGTERM, and a terminal or ssh session that is lost sends SIGHUP.
    """
    return [sent for sent in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(sent) is not signal.SIG_IGN]


@contextlib.contextmanager
def handled(signals: Sequence[signal.Signals], handler: Any) -> Iterator[None]:
    """Handles signals by `handler` until the end of the block; does nothing outside of the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in signals}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def end_with_parent(closing_time: float = 0.0) -> None:
    """Watches the parent process from a thread; when it is gone, waits `closing_time` seconds and ends this process.

    This works even if the main thread hangs.
    """
    threading.Thread(target=_exit_after_parent, args=(closing_time,), daemon=True).start()


def _exit_after_parent(closing_time: float) -> None:
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        time.sleep(closing_time)
        for child in active_children():  # this end does not end them
            child.kill()
        os._exit(1)


def allow_children() -> None:
    """Lets this process start processes although it is a daemon: some environments start a simulator.

    Daemons end with their parent, which is wanted; multiprocessing forbids them children, because nobody would end
    those. `end_with_parent` does.
    """
    current_process()._config["daemon"] = False  # type: ignore[attr-defined]  # there is no public way


def reruns_main() -> bool:
    """True if a process that is started by spawn now would run the main program again, as far as here.

    Spawn imports the script that was started, and runs all of it but what is under `if __name__ == "__main__":`.
    """
    main = sys.modules["__main__"]
    file, spec = getattr(main, "__file__", None), getattr(main, "__spec__", None)
    if file is None or (spec is not None and spec.name.endswith("__main__")):
        return False  # a notebook, `python -c`, or a package's __main__.py, which spawn leaves out
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    while frame is not None and not (frame.f_globals is vars(main) and frame.f_code.co_name == "<module>"):
        frame = frame.f_back
    if frame is None:
        return False
    try:
        tree = ast.parse(Path(file).read_bytes())
    except (OSError, SyntaxError, ValueError):
        return True  # as of a program from a pipe, which a process cannot import either
    guards = [node for node in ast.walk(tree) if isinstance(node, ast.If) and "__name__" in ast.unparse(node.test)]
    return not any(node.body[0].lineno <= frame.f_lineno <= (node.body[-1].end_lineno or 0) for node in guards)


NEEDS_GUARD = "a script needs `if __name__ == '__main__':` around what it does, for each process would run it again"
"""The reason for which no processes are started where `reruns_main` is true."""


def run_child(target: str, *args: Any) -> None:
    """Calls `package.module:function` in a child process that ends when its parent does.

    The parent is watched before the module is imported, since importing one that needs torch takes seconds.
    """
    end_with_parent()
    module, _, name = target.partition(":")
    getattr(importlib.import_module(module), name)(*args)


class SharedArray:
    """A NumPy array in shared memory, zeros at first; pass it to a process as an argument when starting it."""

    def __init__(self, shape: Sequence[int], dtype: DTypeLike) -> None:
        self._shape, self._dtype = tuple(shape), np.dtype(dtype)
        self._memory = SPAWN.RawArray("b", max(1, math.prod(self._shape)) * self._dtype.itemsize)

    @property
    def array(self) -> NDArray[Any]:
        """A view of the shared memory."""
        return np.frombuffer(self._memory, self._dtype, math.prod(self._shape)).reshape(self._shape)


class KernelLock:
    """A lock between processes; if a process dies while it holds the lock, the kernel releases it."""

    def __init__(self, received: Any = None) -> None:
        """Makes a new lock, or in a child process reopens the parent's from `received`, its pickled file descriptor."""
        if received is not None:
            self._descriptor: int = received.detach()
        else:
            with tempfile.TemporaryFile() as unnamed:
                self._descriptor = os.dup(unnamed.fileno())

    def __enter__(self) -> None:
        fcntl.lockf(self._descriptor, fcntl.LOCK_EX)

    def __exit__(self, *error: object) -> None:
        fcntl.lockf(self._descriptor, fcntl.LOCK_UN)

    def __reduce__(self) -> tuple[Any, ...]:
        return KernelLock, (reduction.DupFd(self._descriptor),)

    def __del__(self) -> None:
        os.close(self._descriptor)
