"""Processes that are looked after: what they say is collected, and one that dies is started again."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import connection
from typing import Any, NamedTuple

from rlkit.errors import RlkitError
from rlkit.system.processes import SPAWN, interrupts_deferred, run_child


class Ready(NamedTuple):
    """A process says that it could be set up, and waits for a word."""


class Done(NamedTuple):
    """A process says that it has done what it had to, and has closed what it had: it may be killed."""


class Failure(NamedTuple):
    """A process says why it ends."""

    why: str


@dataclass
class Member:
    """A process, and those that take its place when it dies."""

    name: str
    """What messages call it."""
    target: str
    """What it runs, as `package.module:function`."""
    arguments: Callable[[int], tuple[Any, ...]]
    """What that function gets, by how often it has been started before; after these comes its end of a pipe. Called
    before each start, when no process of this member is alive."""
    process: Any = None
    pipe: Any = None
    starts: int = 0
    ready: bool = False
    proven: bool = False
    """Whether it or one before it has ever been ready: then another attempt is worth it."""
    done: bool = False
    failure: Failure | None = None
    open: bool = False
    """Whether there may be more to read from the pipe."""


class Supervisor:
    """Starts members, collects what they say, and starts those again that die, `max_restarts` times in all."""

    def __init__(self, members: Sequence[Member], max_restarts: int) -> None:
        self.members, self.max_restarts = members, max_restarts
        self.restarts = 0
        self.notes: list[str] = []
        """A line for the user about each of these, to be taken out."""

    def start(self) -> None:
        """Starts all members."""
        for member in self.members:
            self._start(member)

    def wait(self, timeout: float) -> list[tuple[Member, Any]]:
        """What members have said since the last time; waits until one says something, but no longer than `timeout`.

        Raises RlkitError when a member cannot even start, and when one dies after the last restart.
        """
        running = [member for member in self.members if member.process is not None]
        connection.wait([m.pipe if m.open else m.process.sentinel for m in running], timeout)
        said = []
        for member in running:
            alive = member.process.is_alive()  # asked before reading, so that a dead one's last words are heard
            said += [(member, message) for message in self._read(member)]
            if not alive:
                self._ended(member)
        return said

    def stop(self, seconds: float) -> list[tuple[Member, Any]]:
        """Waits so long for the members to be done, then ends them; returns what they still said."""
        deadline = time.monotonic() + seconds
        said = []
        for member in self.members:
            if (process := member.process) is None:
                continue
            # One that is not ready yet has nothing to close.
            while member.ready and not member.done and process.is_alive() and (left := deadline - time.monotonic()) > 0:
                # Whoever has much to say waits until it is read.
                connection.wait([process.sentinel, *([member.pipe] if member.open else [])], left)
                said += [(member, message) for message in self._read(member)]
            process.kill()  # its interpreter's own end would take longer than everything else
            process.join()
            said += [(member, message) for message in self._read(member)]
            self._close(member)
        return said

    def _start(self, member: Member) -> None:
        ours, theirs = SPAWN.Pipe()
        arguments = member.arguments(member.starts)
        with interrupts_deferred():
            member.process = SPAWN.Process(target=run_child, args=(member.target, *arguments, theirs), name=member.name)
            member.process.start()
            theirs.close()
            member.pipe, member.open = ours, True
            member.starts += 1

    def _read(self, member: Member) -> list[Any]:
        """All messages that have come from a member, except those about itself."""
        messages = []
        try:
            while member.open and member.pipe.poll():
                message = member.pipe.recv()
                if isinstance(message, Ready):
                    member.ready = member.proven = True
                if isinstance(message, Done):
                    member.done = True
                if isinstance(message, Failure):
                    member.failure = message
                messages.append(message)
        except (EOFError, OSError):  # it has ended, perhaps in the middle of a message
            member.open = False
        return messages

    def _ended(self, member: Member) -> None:
        member.process.join()
        why = member.failure.why if member.failure else _cause(member.process.exitcode)
        self._close(member)
        if member.done:
            return
        self.note_death(member.name, why, proven=member.proven)
        member.failure = None
        self._start(member)

    def note_death(self, name: str, why: str, *, proven: bool) -> None:
        """Counts a restart, and notes what it is for; raises RlkitError where there is to be none."""
        if not proven:
            raise RlkitError(f"{name} could not start: {why}")
        if self.restarts == self.max_restarts:
            raise RlkitError(f"{name} died: {why}; after {self.restarts} restarts (agent.max_restarts)")
        self.restarts += 1
        self.notes.append(f"{name} died: {why}; started again ({self.restarts} of {self.max_restarts} times)")

    def _close(self, member: Member) -> None:
        member.process.close()
        member.pipe.close()
        member.process, member.open, member.ready = None, False, False


def _cause(code: int) -> str:
    """What an exit code says."""
    if code == -signal.SIGKILL:
        return "killed by SIGKILL, as the kernel does when memory runs out"
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    hint = "; a script needs `if __name__ == '__main__':` around what it does" if code == 1 else ""
    return f"exit code {code}{hint}"
