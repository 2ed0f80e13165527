from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from waiting import PATIENCE

from rlkit.errors import RlkitError
from rlkit.runs.files import atomic, make_folder, write_json, write_text
from rlkit.runs.run_folder import RUN_FILES, LostFolder, RunFolder
from rlkit.runs.tensor_files import write_tensors
from rlkit.system.processes import ending_signals, handled


def test_create_makes_the_folder_with_hydras_files(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "runs" / "ppo" / "x", {"config.yaml": "seed: 1\n", "overrides.yaml": "[]\n"})
    assert (folder.path / ".hydra" / "config.yaml").read_text() == "seed: 1\n"
    assert sorted(file.name for file in (folder.path / ".hydra").iterdir()) == ["config.yaml", "overrides.yaml"]


def test_create_accepts_a_folder_with_other_things(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    RunFolder.create(tmp_path, {})
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("name", RUN_FILES)
def test_create_refuses_a_folder_that_holds_a_run(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(RlkitError, match=rf"already holds a run \({name} is there\)"):
        RunFolder.create(tmp_path, {"config.yaml": ""})
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_create_twice_at_once_gives_the_folder_to_one(tmp_path: Path) -> None:
    outcomes: list[str] = []
    barrier = threading.Barrier(8)

    def create() -> None:
        barrier.wait()
        try:
            RunFolder.create(tmp_path / "run", {})
            outcomes.append("made")
        except RlkitError:
            outcomes.append("refused")

    threads = [threading.Thread(target=create) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["made"] + ["refused"] * 7


def test_create_refuses_a_file_and_a_folder_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(RlkitError, match="run is a file"):
        RunFolder.create(tmp_path / "run", {})
    with pytest.raises(RlkitError, match="cannot make the run folder"):
        RunFolder.create(tmp_path / "run" / "below", {})


@pytest.fixture
def unprivileged() -> Iterator[Path]:
    """A folder that may be read but not written; root, who may write everywhere, is somebody else for a while."""
    user = os.geteuid()
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o555)
        if user == 0:
            os.seteuid(65534)
        yield Path(folder)
        os.seteuid(user)
        os.chmod(folder, 0o755)


def test_create_refuses_a_read_only_folder(unprivileged: Path) -> None:
    for path in (unprivileged, unprivileged / "run"):
        with pytest.raises(RlkitError, match=rf"^cannot make the run folder {path}: Permission denied$"):
            RunFolder.create(path, {"config.yaml": ""})
    assert not list(unprivileged.iterdir())


def test_create_refuses_a_folder_that_may_not_be_entered(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir()
    user = os.geteuid()
    try:
        (tmp_path / "closed").chmod(0)
        if user == 0:
            os.seteuid(65534)
        with pytest.raises(RlkitError, match=r"^cannot make the run folder .*/closed/run: Permission denied$"):
            RunFolder.create(tmp_path / "closed" / "run", {})
    finally:
        os.seteuid(user)
        (tmp_path / "closed").chmod(0o755)


def test_write_summary_replaces_and_is_strict_json(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write_summary({"status": "running"})
    folder.write_summary({"status": "finished", "mean": np.float32(1.5), "std": float("nan"), "episodes": 3})
    text = (tmp_path / "summary.json").read_text()
    summary = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert summary == {"status": "finished", "mean": 1.5, "std": None, "episodes": 3}
    assert [file.name for file in tmp_path.iterdir()] == ["summary.json"]


def test_checkpoint_folders(tmp_path: Path) -> None:
    assert RunFolder(tmp_path).checkpoint("best") == tmp_path / "checkpoints" / "best"


def test_atomic_keeps_the_old_file_when_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    write_text(path, "old")

    def write_half() -> None:
        with atomic(path) as temporary:
            temporary.write_text("half of the new")
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        write_half()
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["file.txt"]


def test_files_that_cannot_be_written_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RlkitError, match=r"^cannot write .*json: (No such file or directory|Not a directory)$"):
        write_json(tmp_path / "file" / "x.json", {})
    with pytest.raises(RlkitError, match=r"^cannot make the folder .*: Not a directory$"):
        make_folder(tmp_path / "file" / "folder")


def test_written_files_have_the_usual_permissions(tmp_path: Path) -> None:
    write_text(tmp_path / "ours", "")
    (tmp_path / "usual").write_text("")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "usual").stat().st_mode


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077, 0o027])
def test_weights_have_the_mode_that_the_umask_gives(umask: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        for _ in range(2):  # the second replaces the first
            write_tensors(tmp_path / "model.safetensors", {"a": torch.ones(2)}, {})
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "model.safetensors").stat().st_mode) == 0o666 & ~umask


HOLDER = """
import os, sys, time
from pathlib import Path
from rlkit.runs.run_folder import RunFolder
folder = RunFolder.create(Path(sys.argv[1]), {})
child = os.fork() if sys.argv[2] == "forks" else 1
print(os.getpid() if child else "child", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("forks", ["forks", "alone"])
def test_a_folder_has_one_writer_and_a_killed_one_leaves_no_lock(forks: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "run"), forks]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as holder:
        try:
            assert holder.stdout is not None
            for _ in range(2 if forks == "forks" else 1):
                holder.stdout.readline()
            with pytest.raises(
                RlkitError, match=rf"is in use by process {holder.pid} on .*: expected a folder"
            ) as caught:
                RunFolder.resume(tmp_path / "run")
            assert "\n" not in str(caught.value)
            holder.kill()
            holder.wait()
            RunFolder.resume(tmp_path / "run").release()  # although the child still lives
        finally:
            os.killpg(holder.pid, signal.SIGKILL) if forks == "forks" else holder.kill()


def test_two_runs_of_one_process_are_kept_apart_as_well(tmp_path: Path) -> None:
    first = RunFolder.create(tmp_path / "run", {})
    (tmp_path / "link").symlink_to(tmp_path / "run")
    for _ in range(2):  # to be refused gives nothing up
        for name in ("run", "link"):
            with pytest.raises(RlkitError, match=rf"is in use by this process, {os.getpid()}"):
                RunFolder.resume(tmp_path / name)
    first.release()
    first.release()
    second = RunFolder.resume(tmp_path / "run")
    with pytest.raises(RlkitError, match="is in use by"):
        RunFolder.resume(tmp_path / "run")
    second.release()


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), RlkitError("cannot write"), KeyboardInterrupt()]
)
def test_a_folder_that_could_not_be_made_is_not_locked(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise error

    with monkeypatch.context() as full:
        full.setattr("rlkit.runs.run_folder.write_text", fail)
        with pytest.raises(type(error)):
            RunFolder.create(tmp_path / "run", {"config.yaml": "seed: 0"})
    shutil.rmtree(tmp_path / "run" / ".hydra")
    RunFolder.create(tmp_path / "run", {"config.yaml": "seed: 0"}).release()


def test_a_lock_on_a_full_disk_is_one_and_is_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.pwrite", fail)
    folder = RunFolder.create(tmp_path / "run", {})
    with pytest.raises(RlkitError, match="is in use by"):
        RunFolder.resume(tmp_path / "run")
    folder.release()
    RunFolder.resume(tmp_path / "run").release()


def test_a_folder_that_is_gone_cannot_be_resumed(tmp_path: Path) -> None:
    with pytest.raises(RlkitError, match=r"^cannot write into the run folder .*: No such file or directory$"):
        RunFolder.resume(tmp_path / "run")


def test_a_removed_folder_is_noticed(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", {})
    folder.check_kept()
    (tmp_path / "run").rename(tmp_path / "moved")
    with pytest.raises(LostFolder, match="was removed during the run"):
        folder.check_kept()
    (tmp_path / "moved").rename(tmp_path / "run")
    folder.check_kept()
    (tmp_path / "run" / ".lock").unlink()
    (tmp_path / "run" / ".lock").touch()
    with pytest.raises(LostFolder, match="was removed during the run"):
        folder.check_kept()
    folder.release()


def test_signals_that_are_ignored_stay_so() -> None:
    assert ending_signals() == [signal.SIGTERM, signal.SIGHUP]
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup has it
    try:
        assert ending_signals() == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_handled_signals_are_given_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)

    def ask_to_end() -> None:
        with handled(ending_signals(), signal.default_int_handler):
            os.kill(os.getpid(), number)
            time.sleep(PATIENCE)

    with pytest.raises(KeyboardInterrupt):
        ask_to_end()
    assert signal.getsignal(number) is before
