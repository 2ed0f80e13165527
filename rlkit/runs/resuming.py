"""The configuration of a run that goes on: what its folder has stored, and the changes that the user asks for.

All that it takes is in the folder: recipes, experiments and tuned values, which may have changed or be gone since, are
not read again. A stored file must not bring more with it than values: what it names is imported only by the rules of
`rlkit.system.dotted_paths`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from omegaconf import DictConfig, ListConfig, OmegaConf

from rlkit.errors import RlkitError
from rlkit.runs import grammar, hydra_app
from rlkit.runs.hydra_app import App, Job, readable_errors, refuse_interpolations
from rlkit.runs.reading import checked, read_yaml
from rlkit.system.dotted_paths import import_from_file

FILES = ("config", "overrides", "hydra")
"""Names of the YAML files in a run folder's .hydra/."""


class StoredConfig(NamedTuple):
    """The configuration in a run folder's .hydra/."""

    config: DictConfig
    overrides: list[str]
    """The command line of the run."""
    hydra: DictConfig
    """Hydra's own configuration."""
    own: dict[str, str]
    """The classes of the user's own that the run has: dotted paths by names."""
    file: Path
    """The file of the configuration."""


def read_stored(run_dir: Path) -> StoredConfig:
    """Reads the configuration of a run; raises RlkitError for a folder that holds none that could be resumed."""
    folder = run_dir / ".hydra"
    file = folder / "config.yaml"
    try:
        config, overrides, hydra_config = (
            read_yaml(folder / f"{name}.yaml") for name in ("config", "overrides", "hydra")
        )
    except RlkitError as error:
        raise RlkitError(f"{run_dir} cannot be resumed: {error}") from error
    if not isinstance(config, DictConfig) or not isinstance(overrides, ListConfig):
        raise RlkitError(f"{run_dir} cannot be resumed: its .hydra/ holds no configuration of a run")
    refuse_interpolations(config, file)
    own = checked(config.get("own_classes", {}), dict[str, str], f"{file}: own_classes")
    given = checked(OmegaConf.to_container(overrides), list[str], f"{folder / 'overrides.yaml'}")
    return StoredConfig(config, given, hydra_config, own, file)


def continued(
    app: App,
    run_dir: Path,
    stored: StoredConfig,
    choices: Sequence[str],
    changes: Sequence[str],
    check_change: Callable[[str, str], None],
) -> Job:
    """Makes the job that continues a run, with the configuration that is stored and the changes.

    `choices` are the overrides that choose the parts that the run consists of; `check_change`, which gets the change
    and its key, raises RlkitError for one that the run cannot have.
    """
    config = stored.config
    keys = list(map(str, config.get("logger") or {}))
    own_loggers = {key: path for key, path in stored.own.items() if key in keys}
    for path in own_loggers.values():
        import_from_file("logger", path, stored.file)
    loggers = [own_loggers.get(key, key) for key in keys if key in own_loggers or ":" not in key]  # keys import nothing
    with readable_errors(app):
        for_loggers, for_values = _sorted_changes(changes, check_change)
        chosen = for_loggers or [grammar.override("logger", loggers)]
        composed, hydra_config, _ = hydra_app.compose(app, [*choices, *chosen])
        if for_loggers:  # of loggers that are left out, nothing is kept
            config["logger"] = {key: value for key, value in config.get("logger", {}).items() if key in composed.logger}
            gone = set(keys) - set(composed.logger)
            config["own_classes"] = {key: path for key, path in stored.own.items() if key not in gone}
        composed.merge_with(config)
        grammar.apply(composed, for_values)
    job = hydra_app.make_job(app, composed, hydra_config, run_dir)
    files = {
        "config.yaml": job.hydra_files["config.yaml"],
        "overrides.yaml": OmegaConf.to_yaml(OmegaConf.create([*stored.overrides, *changes])),
    }
    return job._replace(hydra_files=files if changes else {})


def _sorted_changes(changes: Sequence[str], check_change: Callable[[str, str], None]) -> tuple[list[str], list[str]]:
    """Returns the changes that choose loggers, and those that set values."""
    for_loggers, for_values = [], []
    for change, parsed in zip(changes, grammar.parse(changes), strict=True):
        key = parsed.key_or_group
        check_change(change, key)
        if key == "logger":
            for_loggers.append("logger=[]" if parsed.is_delete() else change)
        else:
            for_values.append(change)
    return for_loggers, for_values
