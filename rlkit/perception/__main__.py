"""The command `python -m rlkit.perception recipe=NAME [key=value …]`, which trains a companion model.

`resume=RUN` continues a run that was stopped. A user's mistake ends with one line on stderr and exit code 2; Ctrl-C
saves the run and ends with exit code 130.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from rlkit.errors import RlkitError
from rlkit.system.imports import NothingImportedFrom

if TYPE_CHECKING:
    from rlkit.runs.hydra_app import Job


def main() -> None:
    """Runs the command line in sys.argv and exits."""
    arguments = sys.argv[1:]
    try:
        if {"--help", "-h"} & set(arguments):
            from rlkit.perception.help import help_text
            from rlkit.runs.field_docs import show

            show(help_text(arguments))
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


def _train(job: Job) -> None:
    from rlkit.perception.run import run  # here, because it imports torch: mistakes in the settings are told sooner

    run(job.config, job.run_dir, hydra_files=job.hydra_files)


def _resume(arguments: list[str]) -> None:
    """Continues the run in a folder with its stored configuration.

    Further arguments, such as `fit.epochs=30`, change that configuration for good.
    """
    folders = [argument.removeprefix("resume=") for argument in arguments if argument.startswith("resume=")]
    changes = [argument for argument in arguments if not argument.startswith("resume=")]
    if len(folders) != 1:
        raise RlkitError(f"expected one run folder to resume, not {' and '.join(folders)}")
    with NothingImportedFrom(folders[0]):
        _resume_run(Path(folders[0]).absolute(), changes)


def _resume_run(run_dir: Path, changes: list[str]) -> None:
    from omegaconf import DictConfig, ListConfig, OmegaConf

    from rlkit.perception.config_source import APP
    from rlkit.perception.run import run
    from rlkit.runs.hydra_app import compose, make_job, plain_choices, readable_errors, refuse_interpolations
    from rlkit.runs.reading import checked, read_yaml

    file, overrides_file = run_dir / ".hydra" / "config.yaml", run_dir / ".hydra" / "overrides.yaml"
    try:
        stored, chosen = read_yaml(file), read_yaml(overrides_file)
    except RlkitError as error:
        raise RlkitError(f"{run_dir} cannot be resumed: {error}") from error
    if not isinstance(stored, DictConfig) or not isinstance(chosen, ListConfig):
        raise RlkitError(f"{run_dir} cannot be resumed: its .hydra/ holds no configuration of a run")
    for each, where in ((stored, file), (chosen, overrides_file)):
        refuse_interpolations(each, where)
    overrides = checked(OmegaConf.to_container(chosen), list[str], f"{overrides_file}")
    own = checked(stored.get("own_classes", {}), dict[str, str], f"{file}: own_classes")
    _import_loggers(run_dir / ".hydra", [*own.values(), *overrides])
    # Composing once more gives the types of all fields. The values are those that the run began with, even if its
    # recipe has changed since; so of its overrides, only the choices of configs count.
    composed, hydra_config, _ = compose(APP, plain_choices(APP, overrides))
    with readable_errors(APP):
        composed.merge_with(stored)
        composed.merge_with_dotlist(changes)
    job = make_job(APP, composed, hydra_config, run_dir)
    changed = {
        "config.yaml": job.hydra_files["config.yaml"],
        "overrides.yaml": OmegaConf.to_yaml(OmegaConf.create([*overrides, *changes])),
    }
    run(job.config, run_dir, hydra_files=changed if changes else {}, resume=True)


def _import_loggers(folder: Path, settings: Iterable[str]) -> None:
    """Imports the user's own loggers that stored settings name; RlkitError for code that lies in the run folder."""
    from rlkit.system.dotted_paths import import_from_file, paths_in

    for setting in settings:
        if "=" not in setting or setting.startswith("logger="):
            for path in paths_in(setting):
                import_from_file("logger", path, folder / "overrides.yaml")


def _fail(error: RlkitError) -> NoReturn:
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        raise error
    print("error:", " ".join(str(error).splitlines()), file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
