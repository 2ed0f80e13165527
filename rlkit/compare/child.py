"""The process of one run: everything that it prints goes to a file, and mathematics has one thread."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rlkit.compare.peers import PeerTask
from rlkit.errors import RlkitError
from rlkit.system.processes import allow_children
from rlkit.system.terminal import complain

OUTPUT = "output.txt"
"""File in a run's folder with all that it would have printed."""


def train(what: Sequence[str] | PeerTask, run_dir: str) -> None:
    """Trains our agent by a command line, or a peer's; ends this process with exit code 2 after a user's mistake."""
    allow_children()  # of environments and of A3C
    folder = Path(run_dir)
    output = os.open(folder / OUTPUT, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for stream in (1, 2):
        os.dup2(output, stream)
    try:
        _train(what, folder)
    except RlkitError as error:
        complain(error)
        sys.exit(2)


def _train(what: Sequence[str] | PeerTask, folder: Path) -> None:
    from rlkit.system.threads import one_thread

    with one_thread():
        if isinstance(what, PeerTask):
            from rlkit.compare.peer_run import train_peer

            train_peer(what, folder)
            return
        from rlkit.cli.composition import compose_job
        from rlkit.run import run_training

        job = compose_job(what)
        run_training(job.config, folder, hydra_files=job.hydra_files)
