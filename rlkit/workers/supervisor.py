"""Supervision of processes: their messages are collected, and one that dies is started again."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import connection
from typing import Any, NamedTuple

from rlkit.errors import RlkitError
from rlkit.system.processes import NEEDS_GUARD, SPAWN, interrupts_deferred, reruns_main, run_child


class Ready(NamedTuple):
    """Message of a process that is set up and waits for the word to begin."""


class Done(NamedTuple):
    """Message of a process that has finished its work and closed its environments: it may be killed."""


class Failure(NamedTuple):
    """Message of a process that ends because of an error."""

    why: str
    """The reason, in one line."""


@dataclass
class Member:
    """A supervised process; when it dies, a new process goes on as the same member."""

    name: str
    """Name in messages to the user."""
    target: str
    """Function that the process runs, as `package.module:function`."""
    arguments: Callable[[int], tuple[Any, ...]]
    """Returns the function's arguments, given the number of earlier starts; the process's end of the pipe is appended
    to them. Called before each start, when no process of this member is alive."""
    process: Any = None
    """The running process; None before the start and after the end."""
    pipe: Any = None
    """Our end of the pipe to the process."""
    starts: int = 0
    """Number of times that it has been started."""
    ready: bool = False
    """True once the process has sent `Ready`."""
    proven: bool = False
    """True if the process or a predecessor has ever been ready: then starting it again is worth a try."""
    done: bool = False
    """True once the process has sent `Done`."""
    failure: Failure | None = None
    """The error that the process has reported, if it has."""
    open: bool = False
    """True while the pipe may hold further messages."""


class Supervisor:
    """Starts processes, collects their messages, and restarts those that die, up to `max_restarts` times in all."""

    def __init__(self, members: Sequence[Member], max_restarts: int) -> None:
        self.members, self.max_restarts = members, max_restarts
        self.restarts = 0
        self.notes: list[str] = []
        """Lines for the user, one about each restart; whoever prints them takes them out."""

    def start(self) -> None:
        """Starts all members; raises RlkitError in a script without a main guard."""
        if self.members and reruns_main():
            raise RlkitError(f"agent=a3c starts processes: {NEEDS_GUARD}")
        for member in self.members:
            self._start(member)

    def wait(self, timeout: float) -> list[tuple[Member, Any]]:
        """Returns the members' messages since the last call; waits for one, but no longer than `timeout` seconds.

        Raises RlkitError if a member dies before it was ever ready, or after the last restart.
        """
        running = [member for member in self.members if member.process is not None]
        connection.wait([m.pipe if m.open else m.process.sentinel for m in running], timeout)
        messages = []
        for member in running:
            alive = member.process.is_alive()  # asked before reading, so that a dead process's last messages are read
            messages += [(member, message) for message in self._read(member)]
            if not alive:
                self._ended(member)
        return messages

    def stop(self, seconds: float) -> list[tuple[Member, Any]]:
        """Waits up to `seconds` for the members to be done, then kills them; returns their last messages."""
        deadline = time.monotonic() + seconds
        messages = []
        for member in self.members:
            if (process := member.process) is None:
                continue
            # A process that is not ready yet has no environments to close, so it need not be waited for.
            while member.ready and not member.done and process.is_alive() and (left := deadline - time.monotonic()) > 0:
                # Keep reading: a process with a long message is blocked until its pipe has been emptied.
                connection.wait([process.sentinel, *([member.pipe] if member.open else [])], left)
                messages += [(member, message) for message in self._read(member)]
            process.kill()  # an orderly exit of its interpreter would take longer than everything else
            process.join()
            messages += [(member, message) for message in self._read(member)]
            self._close(member)
        return messages

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
        """Reads all messages that have come from a member, and keeps its state up to date by them."""
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
        except (EOFError, OSError):  # the process has ended, perhaps in the middle of a message
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
        """Counts a restart and notes its reason for the user.

        Raises RlkitError if nothing is to be restarted: a process that is not `proven` would most likely fail again,
        and `max_restarts` bounds the rest.
        """
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
    """Explains a process's exit code."""
    if code == -signal.SIGKILL:
        return "killed by SIGKILL, as the kernel does when memory runs out"
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"exit code {code}"
