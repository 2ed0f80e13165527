"""The command `rlkit`, also `python -m rlkit`: composes the configuration with Hydra, then trains.

A mistake that the user can mend is reported in one line on stderr, with exit code 2; HYDRA_FULL_ERROR=1 shows its
traceback instead. Ctrl-C ends with exit code 130.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from typing import TYPE_CHECKING, NoReturn

from rlkit.errors import RlkitError
from rlkit.system import ranks
from rlkit.system.imports import NothingImportedFrom
from rlkit.system.terminal import complain, prepare, say

if TYPE_CHECKING:
    from rlkit.runs.hydra_app import Job

TRACEBACKS = os.environ.get("HYDRA_FULL_ERROR") == "1"
"""True if errors are to be raised with their traceback, and not reported in one line."""


def main() -> None:
    """Runs the command line in sys.argv and exits."""
    prepare()
    if not sys.flags.safe_path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # where `python -m rlkit` finds modules, which the console command does not
    try:
        _main(sys.argv[1:])
    except RlkitError as error:
        _fail(error)
    except OSError as error:
        if error.filename is None:
            raise
        _fail(RlkitError(f"cannot write {error.filename}: {error.strerror}; hydra.run.dir=… goes elsewhere"), error)
    except KeyboardInterrupt:
        sys.exit(130)


def _main(arguments: list[str]) -> None:
    if "--help" in arguments or "-h" in arguments:
        from rlkit.cli.help import help_text

        given = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
        loggers = given.get("logger", "").strip("[]").split(",")
        say(help_text(given.get("agent", "ppo"), [name for name in loggers if name]))
        return
    if "--version" in arguments:
        from rlkit import __version__

        say(f"rlkit {__version__}")
        return

    if {"-m", "--multirun"} & set(arguments) and ranks.launched().size > 1:
        raise RlkitError("-m sweeps over runs, but torchrun starts the processes of one: start it once for each run")
    if any(argument.startswith("resume=") for argument in arguments):
        _resume(arguments)
        return
    from rlkit.cli.composition import APP
    from rlkit.runs.hydra_app import run

    run(APP, arguments, _train, _fail)


def _resume(arguments: list[str]) -> None:
    """Continues the run in a folder; further arguments, such as `total_timesteps=1e6`, change it for good."""
    from rlkit.runs.run_folder import asked_folder

    run_dir, changes = asked_folder(arguments)
    with NothingImportedFrom(run_dir):
        # Only in here, because Hydra imports its plugins, wherever Python's path leads to some.
        from rlkit.cli.composition import resumed
        from rlkit.run import run_training
        from rlkit.runs import grammar

        job = resumed(run_dir, grammar.with_homes(changes))
        run_training(job.config, job.run_dir, hydra_files=job.hydra_files, resume=True)


def _train(job: Job) -> float | None:
    """Trains the run of a job, and returns the number that a sweeper improves: the final evaluation's mean."""
    # Importing torch makes many objects, none of which is garbage. The collector would go through them again and again.
    gc.disable()
    from rlkit.run import run_training  # only here, since it imports torch: a mistake in the settings ends sooner

    gc.freeze()
    gc.enable()
    result = run_training(job.config, job.run_dir, hydra_files=job.hydra_files)
    mean: float | None = result.summary["eval_return_mean"]
    return mean


def _fail(error: RlkitError, cause: BaseException | None = None) -> NoReturn:
    if TRACEBACKS:
        raise error from cause
    time.sleep(ranks.seconds_to_speak(error))
    complain(error)
    sys.exit(2)
