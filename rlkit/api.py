"""Training from Python: keywords instead of a command line, and the same configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlkit.errors import RlkitError

if TYPE_CHECKING:
    from rlkit.run import Result


def train(
    agent: str | None = None,
    env: str | None = None,
    *,
    experiment: str | None = None,
    tuned: bool = True,
    run_dir: str | Path | None = None,
    **settings: Any,
) -> Result:
    """Trains like `python -m rlkit agent=… env=…` and returns the agent, the summary and the run folder.

    Agent and environment are those of the experiment where none are given, or else `ppo` and `CartPole-v1`. `settings`
    are the fields of the configuration: `total_timesteps=10_000`, `network={"hidden_sizes": [32]}`,
    `logger=["tensorboard"]`, `**{"agent.num_steps": 64}`. `tuned=False` leaves tuned values out, `run_dir` is
    where the run folder goes. Raises RlkitError for any mistake in them.
    """
    from rlkit import composition

    choices = {"experiment": experiment, "agent": agent, "env": env}
    given = {key: name for key, name in choices.items() if name is not None} | settings
    overrides = [f"{key}={_literal(key, value)}" for key, value in given.items()]
    if not tuned:
        overrides.append("~tuned")
    if run_dir is not None:
        overrides.append(f"hydra.run.dir={_literal('run_dir', run_dir)}")
    job = composition.compose_job(overrides)
    from rlkit.run import run_training  # imports torch: not for a mistake in the settings

    return run_training(job.config, job.run_dir, hydra_files=job.hydra_files)


def _literal(key: str, value: Any) -> str:
    """`value` as it is written on the command line; raises RlkitError for what cannot be."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Real):  # NumPy's numbers too
        return str(value)
    if isinstance(value, str | Path):
        from hydra.core.override_parser.types import Quote, QuotedString

        return QuotedString(str(value), Quote.single).with_quotes()
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{name}:{_literal(key, item)}" for name, item in value.items()) + "}"
    if isinstance(value, Sequence):
        return "[" + ",".join(_literal(key, item) for item in value) + "]"
    raise RlkitError(f"{key}={value!r}: expected None, a bool, a number, a string, or a list or dict of these")
