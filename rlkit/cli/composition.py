"""Composition of the config of `python -m rlkit`: the files, groups and dataclass for `rlkit/runs/hydra_app.py`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from rlkit.cli.config_source import CONF, GROUPS
from rlkit.config import TrainConfig
from rlkit.errors import RlkitError
from rlkit.runs import grammar, hydra_app
from rlkit.runs.hydra_app import App, Job, stored_choices
from rlkit.runs.reading import checked
from rlkit.runs.resuming import continued, read_stored
from rlkit.system import terminal
from rlkit.system.dotted_paths import import_from_file, import_module_from_file

CHANGEABLE = (
    *("total_timesteps", "total_episodes", "eval_interval", "eval_episodes", "final_eval_episodes", "eval_max_steps"),
    *("checkpoint_interval", "log_interval", "logger", "profile", "verbose", "device", "compute"),
)
"""Fields that a run may change when it is resumed."""


def finish(composed: DictConfig, hydra_config: DictConfig) -> None:
    """Turns `compute=numpy` of a file that an earlier version wrote into `auto`, and says so.

    On the command line it is a mistake, which validation finds.
    """
    asked = any(override.lstrip("+").startswith("compute=") for override in hydra_config.hydra.overrides.task)
    if composed.compute == "numpy" and not asked:
        terminal.say(
            "compute=numpy in a configuration file: an earlier version wrote it, and auto takes its place", "stderr"
        )
        composed.compute = "auto"


APP = App(
    name="rlkit",
    conf=CONF,
    config=TrainConfig,
    groups=GROUPS,
    finish=finish,
    explanations={"'${agent}/${env}'": "a run has one agent and one env: choose them by agent=NAME and env=ID"},
)


def compose(overrides: Sequence[str]) -> TrainConfig:
    """Composes the config that `python -m rlkit <overrides>` trains with; raises RlkitError for any mistake in it."""
    config = compose_job(overrides).config
    assert isinstance(config, TrainConfig)
    return config


def resumed(run_dir: Path, changes: Sequence[str]) -> Job:
    """Makes the job that continues the run in a folder, with the configuration that is stored there, and changes.

    Raises RlkitError for a folder that holds no such configuration, and for a change that cannot be.
    """
    stored = read_stored(run_dir)
    if own := stored.own.get("agent"):
        import_from_file("agent", own, stored.file)
    agent = [grammar.override("agent", own)] if own else stored_choices(stored.hydra, ["agent"])
    env_id = checked(OmegaConf.select(stored.config, "env.id"), str, f"{stored.file}: env.id")
    if module := env_id.rpartition(":")[0]:
        import_module_from_file("env", env_id, module, stored.file)
    config = compose([*agent, "~tuned"])

    def check_change(change: str, key: str) -> None:
        if key in CHANGEABLE or key.startswith("logger.") or _is_number(config, key):
            return
        known = [*CHANGEABLE, "agent.learning_rate"]
        raise RlkitError(
            f"{change}: a run that is resumed keeps its folder, agent, environments and network; it can change "
            f"{', '.join(known[:-1])}, and numbers of the agent that are no counts, such as {known[-1]}"
        )

    return continued(APP, run_dir, stored, [*agent, "~tuned"], changes, check_change)


def _is_number(config: TrainConfig, key: str) -> bool:
    """True if a key is that of a number of the agent that is no count, or of a schedule for one."""
    value: Any = config
    for name in key.split("."):
        value = getattr(value, name, None)
    return key.startswith("agent.") and (isinstance(value, float) or key.endswith("_schedule"))


def compose_job(overrides: Sequence[str]) -> Job:
    """Composes the run that `python -m rlkit <overrides>` starts; raises RlkitError for any mistake in it."""
    return hydra_app.compose_job(APP, overrides)
