"""Processes that work together: a budget that is met exactly, a lock that nobody can take to the grave."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

from rlkit.system.processes import SPAWN, KernelLock, SharedArray, run_child
from rlkit.workers.budget import Budget


def started(task: str, *args: Any) -> Any:
    process = SPAWN.Process(target=run_child, args=(f"child_tasks:{task}", *args))
    process.start()
    return process


def test_a_budget_is_cut_at_its_end_and_taken_up_again() -> None:
    budget = Budget(10, 2)
    assert (budget.claim(0, 6), budget.claim(1, 6), budget.done) == (6, 4, 0)
    budget.finish(0)
    budget.give_back(1)  # as if it had died
    assert (budget.claim(0, 6), budget.done) == (4, 6)
    budget.finish(0)
    assert (budget.claim(0, 6), budget.claim(1, 6), budget.done) == (0, 0, 10)


def test_no_more_is_claimed_once_it_is_stopped() -> None:
    budget = Budget(10, 1)
    budget.stop()
    assert budget.claim(0, 5) == 0


def test_processes_meet_a_budget_exactly_though_one_is_killed() -> None:
    budget = Budget(20_003, 3)
    ours, theirs = SPAWN.Pipe()
    lost = started("claim_once", budget, 2, theirs)
    assert ours.recv() == 7
    others = [started("claim_until_done", budget, worker) for worker in (0, 1)]
    lost.kill()
    lost.join()
    budget.give_back(2)
    for process in others:
        process.join(60)
        assert process.exitcode == 0
    assert budget.done == 20_003


def test_a_lock_is_free_again_when_its_holder_is_killed() -> None:
    lock = KernelLock()
    ours, theirs = SPAWN.Pipe()
    holder = started("hold", lock, theirs)
    assert ours.recv() == "held"
    holder.kill()
    with lock:  # hangs otherwise
        holder.join()


@pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="Linux keeps shared memory there")
def test_shared_memory_has_no_name_that_could_be_left_behind() -> None:
    before = set(os.listdir("/dev/shm"))
    array = SharedArray([3, 2], "float32")
    array.array[1] = 7
    np.testing.assert_array_equal(array.array, [[0, 0], [7, 7], [0, 0]])
    new = set(os.listdir("/dev/shm")) - before
    assert not {name for name in new if name.startswith(f"pym-{os.getpid()}-")}
