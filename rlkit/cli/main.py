"""The command `rlkit`, also `python -m rlkit`: compose the configuration with Hydra, then train.

Whatever is the user's to mend is one line on stderr and exit code 2; Ctrl-C is exit code 130. HYDRA_FULL_ERROR=1
shows the traceback instead.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from typing import TYPE_CHECKING, NoReturn

from rlkit.errors import RlkitError
from rlkit.system import ranks

if TYPE_CHECKING:
    from rlkit.runs.hydra_app import Job

TRACEBACKS = os.environ.get("HYDRA_FULL_ERROR") == "1"


def main() -> None:
    """Runs the command line in sys.argv and exits."""
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
        from rlkit.runs.field_docs import show

        given = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
        loggers = given.get("logger", "").strip("[]").split(",")
        show(help_text(given.get("agent", "ppo"), [name for name in loggers if name]))
        return
    if "--version" in arguments:
        from rlkit import __version__

        print(f"rlkit {__version__}")
        return

    if {"-m", "--multirun"} & set(arguments) and ranks.launched().size > 1:
        raise RlkitError("-m sweeps over runs, but torchrun starts the processes of one: start it once for each run")
    from rlkit.cli.composition import APP
    from rlkit.runs.hydra_app import run

    run(APP, arguments, _train, _fail)


def _train(job: Job) -> None:
    gc.disable()  # it would go through torch's many objects again and again while they are made, for nothing
    from rlkit.run import run_training  # imports torch: not for a mistake in the settings

    gc.freeze()
    gc.enable()
    run_training(job.config, job.run_dir, hydra_files=job.hydra_files)


def _fail(error: RlkitError, cause: BaseException | None = None) -> NoReturn:
    if TRACEBACKS:
        raise error from cause
    time.sleep(ranks.seconds_to_speak(error))
    print("error:", " ".join(str(error).splitlines()), file=sys.stderr)
    sys.exit(2)
