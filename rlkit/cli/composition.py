"""Composition of the config of `python -m rlkit`: the files, groups and dataclass for `rlkit/runs/hydra_app.py`."""

from __future__ import annotations

from collections.abc import Sequence

from omegaconf import DictConfig

from rlkit.cli.config_source import CONF, GROUPS
from rlkit.config import TrainConfig
from rlkit.runs import hydra_app
from rlkit.runs.hydra_app import App, Job
from rlkit.system import terminal


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


def compose_job(overrides: Sequence[str]) -> Job:
    """Composes the run that `python -m rlkit <overrides>` starts; raises RlkitError for any mistake in it."""
    return hydra_app.compose_job(APP, overrides)
