"""Composes `key=value` overrides to a checked config dataclass by Hydra, whose errors become one-line RlkitErrors.

`python -m rlkit` and `python -m rlkit.perception` have this in common; an `App` holds all in which they differ.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import env_override
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from rlkit.errors import RlkitError, unknown
from rlkit.runs import grammar
from rlkit.runs.loggers import check_loggers, logger_names, unused_logger
from rlkit.system.user_paths import user_path

HINTS = {
    "converted to Integer": ": expected a whole number, such as 1_000_000",
    "is not a ListConfig": "; expected a list, such as [64]",
    "Missing mandatory value": ", as the text ??? stands for a value that is missing; expected another one",
    "(int) is incompatible with (str)": "; expected a name as the key, in quotes if it is a number: {'1':2}",
}
"""Values that would be right, by a text in OmegaConf's message about a wrong one."""


class App(NamedTuple):
    """A command whose configuration Hydra composes."""

    name: str
    """Name of the application in Hydra."""
    conf: str
    """Package of the YAML files, of which `config.yaml` is the primary one."""
    config: type[Any]
    """Dataclass of the composed configuration, which has a field `logger` and a method `validate`."""
    groups: tuple[str, ...]
    """Names of the config groups, which are the keys that choose a config by its name."""
    explanations: Mapping[str, str] = {}
    """Messages that replace an error of Hydra's, by a text that occurs in the error."""
    finish: Callable[[DictConfig, DictConfig], None] | None = None
    """Completes a composed configuration, which comes with Hydra's own, before it is checked; None: nothing to do."""


class Job(NamedTuple):
    """A run that is ready to be started: its configuration and its folder."""

    config: Any
    run_dir: Path
    hydra_files: dict[str, str]
    """Contents of the files in the run folder's .hydra/, by file name."""


def run(
    app: App, overrides: Sequence[str], start: Callable[[Job], float | None], fail: Callable[[RlkitError], NoReturn]
) -> None:
    """Starts the run that the command line describes, or with `-m` all runs of its sweep.

    `start` returns the number that a sweeper such as Optuna's is to improve, None where there is none. A mistake is
    raised as an RlkitError, except in a single run that Hydra's own launcher has started: that one is ended by `fail`,
    which reports the error and exits.
    """
    arguments = grammar.with_homes(overrides)
    parsed, rest = get_args_parser().parse_known_args(arguments)
    if rest:
        raise RlkitError(f"cannot read '{rest[0]}': expected key=value, and options such as -m before or after these")
    for_hydra = [argument for argument in arguments if argument.lstrip("+~").startswith("hydra")]
    if parsed.overrides == arguments and all(argument.startswith("hydra.run.dir=") for argument in for_hydra):
        start(compose_job(app, arguments))  # Hydra's launcher would compose the configuration three times over
        return
    check_choices(app, parsed.overrides)
    if parsed.config_dir:
        check_encoding(Path(parsed.config_dir))

    def task(composed: DictConfig) -> float | None:
        """Runs one of Hydra's jobs in the folder that Hydra has made for it."""
        hydra_config: Any = HydraConfig.instance().cfg
        run_dir = Path(hydra_config.hydra.runtime.output_dir)
        try:
            with readable_errors(app):
                _finish(app, composed, hydra_config)
            return start(make_job(app, composed, hydra_config, run_dir))
        except RlkitError as error:
            if hydra_config.hydra.mode == RunMode.MULTIRUN:
                raise  # Hydra goes on with the other jobs, and raises this error at the end
            fail(error)
        finally:
            _remove_empty(run_dir)

    # With HYDRA_FULL_ERROR, Hydra raises errors instead of printing them itself, so that they can be made readable.
    with env_override({"HYDRA_FULL_ERROR": "1"}), readable_errors(app), _command_line(arguments):
        hydra.main(version_base="1.3", config_path=f"pkg://{app.conf}", config_name="config")(task)()


@contextmanager
def _command_line(arguments: list[str]) -> Iterator[None]:
    """Puts arguments into the place where Hydra reads them."""
    before = sys.argv
    sys.argv = [before[0], *arguments]
    try:
        yield
    finally:
        sys.argv = before


def _finish(app: App, composed: DictConfig, hydra_config: DictConfig) -> None:
    if app.finish is not None:
        app.finish(composed, hydra_config)


def compose_job(app: App, overrides: Sequence[str]) -> Job:
    """Makes the job of a single run from its overrides; raises RlkitError for any mistake in them."""
    return make_job(app, *compose(app, overrides))


def compose(app: App, overrides: Sequence[str]) -> tuple[DictConfig, DictConfig, Path]:
    """Returns the configuration that the overrides describe, Hydra's own configuration, and the run folder.

    Raises RlkitError for a mistake in the overrides.
    """
    overrides = grammar.with_homes(overrides)
    check_choices(app, overrides)
    composed, hydra_config, run_dir = compose_unfinished(app, overrides)
    with readable_errors(app):
        _finish(app, composed, hydra_config)
    return composed, hydra_config, run_dir


def compose_unfinished(app: App, overrides: Sequence[str]) -> tuple[DictConfig, DictConfig, Path]:
    """Returns what `compose` does, as Hydra composes it: without the app's `finish`."""
    outer = GlobalHydra.instance().hydra  # set where this is called inside another Hydra application
    GlobalHydra.instance().clear()
    try:
        with readable_errors(app), hydra.initialize_config_module(app.conf, app.name, version_base="1.3"):
            composed = hydra.compose("config", list(overrides), return_hydra_config=True)
            if not str(composed.hydra.run.dir).strip():
                raise RlkitError(
                    "hydra.run.dir= names no folder; expected a path, such as runs/mine, or . for this one"
                )
            run_dir = user_path(composed.hydra.run.dir).absolute()
            composed.hydra.runtime.output_dir = grammar.escaped(str(run_dir))
    finally:
        GlobalHydra.instance().hydra = outer
    hydra_config = OmegaConf.masked_copy(composed, "hydra")
    with open_dict(composed):
        del composed["hydra"]
    return composed, hydra_config, run_dir


def make_job(app: App, composed: DictConfig, hydra_config: DictConfig, run_dir: Path) -> Job:
    """Makes the job of the run that a composed configuration describes; raises RlkitError for values that cannot work.

    `hydra_config` holds Hydra's own configuration under the key `hydra`.
    """
    with readable_errors(app):
        config = OmegaConf.to_object(composed)
        files = {
            "config.yaml": grammar.as_yaml(composed),
            "hydra.yaml": OmegaConf.to_yaml(hydra_config),
            "overrides.yaml": OmegaConf.to_yaml(hydra_config.hydra.overrides.task),
        }
    assert isinstance(config, app.config)
    refuse_undeclared(config)
    check_loggers(config.logger, config.own_classes)
    for key, logger in config.logger.items():
        refuse_undeclared(logger, f"logger.{key}.")
    config.validate()
    return Job(config, run_dir, files)


def refuse_undeclared(config: Any, prefix: str = "") -> None:
    """Raises RlkitError for a key that Hydra's `+key=value` added although no dataclass has such a field."""
    declared = [prefix + field.name for field in dataclasses.fields(config)]
    for name, value in vars(config).items():
        if prefix + name not in declared:
            raise _old_name(type(config), prefix, name) or unknown("key", prefix + name, declared)
        if dataclasses.is_dataclass(value):
            refuse_undeclared(value, f"{prefix}{name}.")


def _old_name(config: type[Any] | None, prefix: str, name: str) -> RlkitError | None:
    """The error for a name that a field of the config's class had in an earlier version; None: it never had it.

    The class says so in its attributes `renamed`, old names to new ones, and `removed`, old names to explanations.
    """
    if new := getattr(config, "renamed", {}).get(name):
        return RlkitError(f"{prefix}{name} is now {prefix}{new}")
    if explanation := getattr(config, "removed", {}).get(name):
        return RlkitError(explanation)
    return None


def _old_key(error: Exception) -> RlkitError | None:
    """The error for a key of an earlier version, if that is what Hydra or OmegaConf complain about."""
    cause = error.__cause__ or error.__context__ or error  # in a file that is composed, only the context
    if not isinstance(cause, (ConfigKeyError, ConfigAttributeError)) or not isinstance(cause.parent_node, DictConfig):
        return None
    prefix = str(cause.full_key).removesuffix(str(cause.key))
    return _old_name(OmegaConf.get_type(cause.parent_node), prefix, str(cause.key))


@contextmanager
def readable_errors(app: App) -> Iterator[None]:
    """Turns errors of Hydra and OmegaConf into RlkitErrors of one line."""
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise _readable(app, error) from error
    except YAMLError as error:  # its text names the file and the line
        raise RlkitError(f"cannot read a configuration: {' '.join(str(error).split())}") from error


def check_encoding(folder: Path) -> None:
    """Raises RlkitError for a YAML file in the user's own folder of configs that Hydra would misread.

    Hydra reads plain UTF-8: behind a byte-order mark it overlooks the line `# @package`.
    """
    for file in sorted(folder.rglob("*.yaml")):
        try:
            marked = file.read_text(encoding="utf-8").startswith("\ufeff")
        except UnicodeDecodeError:
            marked = True
        except OSError:
            continue
        if marked:
            raise RlkitError(f"{file} has a byte-order mark or is not in UTF-8: save it as UTF-8 without a mark")


def check_choices(app: App, overrides: Sequence[str]) -> None:
    """Raises RlkitError for a group's choice that is no name, because Hydra's own error does not name the override."""
    with readable_errors(app):
        parsed = grammar.parse(overrides)
    for override in parsed:
        group = override.key_or_group
        if override.is_sweep_override() or override.is_delete() or not (group in app.groups or "/" in group):
            continue
        value = override.value()
        names = value if isinstance(value, list) else [value]
        if not isinstance(value, dict) and not all(isinstance(name, str) for name in names):
            without = f"; ~{group} leaves it out" if value is False else ""
            raise RlkitError(f"{override.input_line}: expected a name, or for logger a list of names{without}")


def stored_choices(hydra_config: Any, groups: Sequence[str]) -> list[str]:
    """Returns the choices of groups that a stored run's own Hydra configuration names, as overrides.

    A stored file must not bring more with it: only plain names of configs count, by which nothing is imported, and no
    way leads to a file outside of the group. Raises RlkitError for a choice that is no such name.
    """
    choices = OmegaConf.select(hydra_config, "hydra.runtime.choices")
    kept = []
    for group in groups:
        name = choices.get(group) if isinstance(choices, DictConfig) else None
        if not isinstance(name, str) or not re.fullmatch(r"[\w-]+", name):
            raise RlkitError(f"the stored choice {group}={name} is no name of a config")
        kept.append(f"{group}={name}")
    return kept


def refuse_interpolations(stored: Any, file: Path) -> None:
    """Raises RlkitError if a value of a stored configuration would be resolved, `${…}`, by which files could read more.

    Runs store the values that they have.
    """
    for key, value in _values(OmegaConf.to_container(stored, resolve=False)):
        if grammar.is_interpolation(value):
            raise RlkitError(f"{file}: {key}={value} would be resolved, which stored values never are; write the value")


def _values(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the keys and values of a nested configuration."""
    pairs = tree.items() if isinstance(tree, Mapping) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in pairs:
        if isinstance(value, Mapping | list):
            yield from _values(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _readable(app: App, error: Exception) -> RlkitError:
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.rpartition("/")
        return unknown(group or "configuration", name, error.options or ())
    if isinstance(error, OverrideParseException):
        return RlkitError(f"cannot read '{error.override}': expected key=value, with quotes around special characters")
    for key, explanation in app.explanations.items():
        if key in str(error):
            return RlkitError(explanation)
    if old := _old_key(error):
        return old
    cause = error.__cause__ or error
    if isinstance(cause, (ConfigKeyError, ConfigAttributeError)) and isinstance(cause.parent_node, DictConfig):
        if cause.full_key in [f"logger.{name}" for name in logger_names()]:
            return unused_logger(cause.key)
        root = OmegaConf.to_container(cause.parent_node._get_root(), resolve=False)
        assert isinstance(root, dict)
        if not str(cause.full_key).startswith("hydra"):
            root.pop("hydra", None)
        known = [*_dotted_keys(root), *app.groups]
        return RlkitError(f"{unknown('key', cause.full_key, known)} (--help lists the keys)")
    if isinstance(cause, OmegaConfBaseException) and cause.full_key:
        reason = str(cause).splitlines()[0].removesuffix(".")
        hint = next((hint for text, hint in HINTS.items() if text in reason), "")
        return RlkitError(f"{cause.full_key}: {reason}{hint}")
    return RlkitError(" ".join(str(error).split()))


def _dotted_keys(tree: Mapping[Any, Any], prefix: str = "") -> Iterator[str]:
    for key, value in tree.items():
        yield f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _dotted_keys(value, f"{prefix}{key}.")


def _remove_empty(run_dir: Path) -> None:
    """Removes the run folder if nothing was written to it, and then its empty parents below the working directory."""
    with contextlib.suppress(OSError):  # raised for the first folder that is not empty, where the removal ends
        run_dir.rmdir()
        for parent in run_dir.parents:
            if Path.cwd() in parent.parents:
                parent.rmdir()
