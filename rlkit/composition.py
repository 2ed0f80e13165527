"""How `python -m rlkit` composes its configuration: which files, groups and dataclass `rlkit/hydra_app.py` works on."""

from __future__ import annotations

from collections.abc import Sequence

from rlkit import hydra_app
from rlkit.config import TrainConfig
from rlkit.config_source import CONF, GROUPS
from rlkit.hydra_app import App, Job

APP = App(
    name="rlkit",
    conf=CONF,
    config=TrainConfig,
    groups=GROUPS,
    explanations={"'${agent}/${env}'": "a run has one agent and one env: choose them by agent=NAME and env=ID"},
)


def compose(overrides: Sequence[str]) -> TrainConfig:
    """The configuration that `python -m rlkit <overrides>` trains with; raises RlkitError for any mistake in it."""
    config = compose_job(overrides).config
    assert isinstance(config, TrainConfig)
    return config


def compose_job(overrides: Sequence[str]) -> Job:
    """The run that `python -m rlkit <overrides>` starts; raises RlkitError for any mistake in the overrides."""
    return hydra_app.compose_job(APP, overrides)
