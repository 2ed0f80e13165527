"""The command `rlkit`, also `python -m rlkit`: compose the configuration with Hydra, then train.

Whatever is the user's to mend is one line on stderr and exit code 2; Ctrl-C is exit code 130. HYDRA_FULL_ERROR=1
shows the traceback instead.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from rlkit import ranks
from rlkit.errors import RlkitError

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from rlkit.composition import Job

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
        from rlkit.help import help_text, show

        agents = [argument.removeprefix("agent=") for argument in arguments if argument.startswith("agent=")]
        show(help_text(agents[-1] if agents else "ppo"))
        return
    if "--version" in arguments:
        from rlkit import __version__

        print(f"rlkit {__version__}")
        return

    import hydra
    from hydra._internal.utils import get_args_parser
    from hydra.core.utils import env_override

    from rlkit.composition import check_choices, compose_job, readable_errors
    from rlkit.config_source import CONF

    parsed, rest = get_args_parser().parse_known_args(arguments)
    if rest:
        raise RlkitError(f"cannot read '{rest[0]}': expected key=value, and options such as -m before or after these")
    for_hydra = [argument for argument in arguments if argument.lstrip("+~").startswith("hydra")]
    if parsed.overrides == arguments and all(argument.startswith("hydra.run.dir=") for argument in for_hydra):
        _train(compose_job(arguments))  # one run like most, which Hydra's launcher would compose three times over
        return
    if parsed.multirun and ranks.launched().size > 1:
        raise RlkitError("-m sweeps over runs, but torchrun starts the processes of one: start it once for each run")
    check_choices(parsed.overrides)
    # With HYDRA_FULL_ERROR, Hydra raises errors instead of printing them in its own words.
    with env_override({"HYDRA_FULL_ERROR": "1"}), readable_errors():
        hydra.main(version_base="1.3", config_path=f"pkg://{CONF}", config_name="config")(_hydra_task)()


def _train(job: Job) -> None:
    from rlkit.run import run_training  # imports torch: not for a mistake in the settings

    run_training(job.config, job.run_dir, hydra_files=job.hydra_files)


def _hydra_task(composed: DictConfig) -> None:
    """One of Hydra's jobs: a training run in the folder that Hydra has made for it."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from rlkit.composition import make_job

    hydra_config: Any = HydraConfig.instance().cfg
    run_dir = Path(hydra_config.hydra.runtime.output_dir)
    try:
        _train(make_job(composed, hydra_config, run_dir))
    except RlkitError as error:
        if hydra_config.hydra.mode == RunMode.MULTIRUN:
            raise  # Hydra goes on with the other jobs, and raises it at the end
        _fail(error)
    finally:
        _remove_empty(run_dir)


def _remove_empty(run_dir: Path) -> None:
    """Removes the run folder if nothing was written to it, and then its empty parents below the working directory."""
    with contextlib.suppress(OSError):  # not empty
        run_dir.rmdir()
        for parent in run_dir.parents:
            if Path.cwd() in parent.parents:
                parent.rmdir()


def _fail(error: RlkitError, cause: BaseException | None = None) -> NoReturn:
    if TRACEBACKS:
        raise error from cause
    time.sleep(ranks.seconds_to_speak(error))
    print("error:", " ".join(str(error).splitlines()), file=sys.stderr)
    sys.exit(2)
