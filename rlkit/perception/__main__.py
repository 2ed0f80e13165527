"""The command `python -m rlkit.perception recipe=NAME [key=value …]`, which trains a companion model.

`resume=RUN` continues a run that was stopped. A user's mistake ends with one line on stderr and exit code 2; Ctrl-C
saves the run and ends with exit code 130.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, NoReturn

from rlkit.errors import RlkitError
from rlkit.system.imports import NothingImportedFrom
from rlkit.system.terminal import complain, prepare, say

if TYPE_CHECKING:
    from rlkit.runs.hydra_app import Job


def main() -> None:
    """Runs the command line in sys.argv and exits."""
    prepare()
    arguments = sys.argv[1:]
    try:
        if {"--help", "-h"} & set(arguments):
            from rlkit.perception.help import help_text

            say(help_text(arguments))
        elif any(argument.startswith("resume=") for argument in arguments):
            _resume(arguments)
        else:
            from rlkit.perception.config_source import APP
            from rlkit.runs.hydra_app import run

            run(APP, arguments, _train, _fail)
    except RlkitError as error:
        _fail(error)
    except KeyboardInterrupt:
        sys.exit(130)


def _train(job: Job) -> float | None:
    """Trains the run of a job, and returns the number that a sweeper improves: the monitored metric."""
    from rlkit.perception.run import run  # here, because it imports torch: mistakes in the settings are told sooner

    return run(job.config, job.run_dir, hydra_files=job.hydra_files).monitored


def _resume(arguments: list[str]) -> None:
    """Continues the run in a folder with its stored configuration.

    Further arguments, such as `fit.epochs=30`, change that configuration for good.
    """
    from rlkit.runs.run_folder import asked_folder

    run_dir, changes = asked_folder(arguments)
    with NothingImportedFrom(run_dir):
        # Only in here, because Hydra imports its plugins, wherever Python's path leads to some.
        from rlkit.perception.config_source import resumed
        from rlkit.perception.run import run
        from rlkit.runs import grammar

        job = resumed(run_dir, grammar.with_homes(changes))
        run(job.config, job.run_dir, hydra_files=job.hydra_files, resume=True)


def _fail(error: RlkitError) -> NoReturn:
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        raise error
    complain(error)
    sys.exit(2)


if __name__ == "__main__":
    main()
