"""From `key=value` overrides to a checked TrainConfig, by Hydra; its errors become one-line RlkitErrors."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from rlkit.config import TrainConfig
from rlkit.config_source import CONF, GROUPS
from rlkit.errors import RlkitError, unknown
from rlkit.loggers import LOGGERS


class Job(NamedTuple):
    """All that a training run is started with."""

    config: TrainConfig
    run_dir: Path
    hydra_files: dict[str, str]
    """What goes into the run folder's .hydra/, by file name."""


def compose(overrides: Sequence[str]) -> TrainConfig:
    """The configuration that `python -m rlkit <overrides>` trains with; raises RlkitError for any mistake in it."""
    return compose_job(overrides).config


def compose_job(overrides: Sequence[str]) -> Job:
    """The run that `python -m rlkit <overrides>` starts; raises RlkitError for any mistake in the overrides."""
    check_choices(overrides)
    outer = GlobalHydra.instance().hydra  # set where this is called inside another Hydra application
    GlobalHydra.instance().clear()
    try:
        with readable_errors(), hydra.initialize_config_module(CONF, "rlkit", version_base="1.3"):
            composed = hydra.compose("config", list(overrides), return_hydra_config=True)
            run_dir = Path(composed.hydra.run.dir).absolute()
            composed.hydra.runtime.output_dir = str(run_dir)
    finally:
        GlobalHydra.instance().hydra = outer
    hydra_config = OmegaConf.masked_copy(composed, "hydra")
    with open_dict(composed):
        del composed["hydra"]
    return make_job(composed, hydra_config, run_dir)


def make_job(composed: DictConfig, hydra_config: DictConfig, run_dir: Path) -> Job:
    """The run that a composed configuration describes; raises RlkitError where its values cannot work.

    `hydra_config` holds Hydra's own configuration under the key `hydra`.
    """
    with readable_errors():
        config = OmegaConf.to_object(composed)
        files = {
            "config.yaml": OmegaConf.to_yaml(composed),
            "hydra.yaml": OmegaConf.to_yaml(hydra_config),
            "overrides.yaml": OmegaConf.to_yaml(hydra_config.hydra.overrides.task),
        }
    assert isinstance(config, TrainConfig)
    _refuse_undeclared(config)
    _check_loggers(config.logger)
    config.validate()
    return Job(config, run_dir, files)


def _refuse_undeclared(config: Any, prefix: str = "") -> None:
    """Raises RlkitError for what Hydra's `+key=value` put where the dataclasses have no field."""
    declared = [prefix + field.name for field in dataclasses.fields(config)]
    for name, value in vars(config).items():
        if prefix + name not in declared:
            raise unknown("key", prefix + name, declared)
        if dataclasses.is_dataclass(value):
            _refuse_undeclared(value, f"{prefix}{name}.")


def _check_loggers(loggers: Mapping[str, Any]) -> None:
    for name, config in loggers.items():
        if name not in LOGGERS:
            raise unknown("logger", name, LOGGERS)
        if not isinstance(config, LOGGERS[name].config):
            raise _unused_logger(name)
        _refuse_undeclared(config, f"logger.{name}.")


def _unused_logger(name: str) -> RlkitError:
    return RlkitError(f"logger.{name} is not in use: choose it by logger=[{name}]")


@contextmanager
def readable_errors() -> Iterator[None]:
    """Turns the errors of Hydra and OmegaConf into RlkitErrors."""
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise _readable(error) from error


def check_choices(overrides: Sequence[str]) -> None:
    """Raises RlkitError where a group's choice is not a name: what Hydra says about it does not name the override."""
    with readable_errors():
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    for override in parsed:
        group = override.key_or_group
        if override.is_sweep_override() or override.is_delete() or not (group in GROUPS or "/" in group):
            continue
        value = override.value()
        names = value if isinstance(value, list) else [value]
        if not isinstance(value, dict) and not all(isinstance(name, str) for name in names):
            raise RlkitError(f"{override.input_line}: expected a name, or for logger a list of names")


def _readable(error: Exception) -> RlkitError:
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.rpartition("/")
        # Hydra leaves out the options where a list was given: logger=[…]
        return unknown(group, name, error.options or (LOGGERS if group == "logger" else ()))
    if isinstance(error, OverrideParseException):
        return RlkitError(f"cannot read '{error.override}': expected key=value, with quotes around special characters")
    if "'${agent}/${env}'" in str(error):
        return RlkitError("a run has one agent and one env: choose them by agent=NAME and env=ID")
    cause = error.__cause__ or error
    if isinstance(cause, (ConfigKeyError, ConfigAttributeError)) and isinstance(cause.parent_node, DictConfig):
        if cause.full_key in [f"logger.{name}" for name in LOGGERS]:
            return _unused_logger(cause.key)
        root = OmegaConf.to_container(cause.parent_node._get_root(), resolve=False)
        assert isinstance(root, dict)
        if not str(cause.full_key).startswith("hydra"):
            root.pop("hydra", None)
        return RlkitError(f"{unknown('key', cause.full_key, [*_dotted_keys(root), *GROUPS])} (--help lists the keys)")
    if isinstance(cause, OmegaConfBaseException) and cause.full_key:
        hint = ": expected a whole number, such as 1_000_000" if "converted to Integer" in str(cause) else ""
        return RlkitError(f"{cause.full_key}: {str(cause).splitlines()[0]}{hint}")
    return RlkitError(" ".join(str(error).split()))


def _dotted_keys(tree: Mapping[Any, Any], prefix: str = "") -> Iterator[str]:
    for key, value in tree.items():
        yield f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _dotted_keys(value, f"{prefix}{key}.")
