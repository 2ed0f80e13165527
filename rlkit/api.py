"""Training from Python: keywords instead of a command line, and the same configuration."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlkit.agents.base import Agent
    from rlkit.run import Result


def train(
    agent: str | type[Agent[Any]] | None = None,
    env: str | None = None,
    *,
    experiment: str | None = None,
    tuned: bool = True,
    run_dir: str | Path | None = None,
    **settings: Any,
) -> Result:
    """Trains like `python -m rlkit agent=… env=…` and returns the agent, the summary and the run folder.

    Agent and environment are those of the experiment where none are given, or else `ppo` and `CartPole-v1`; an agent of
    your own is a class, or its path `package.module:MyAgent`. `settings`
    are the fields of the configuration: `total_timesteps=10_000`, `network={"hidden_sizes": [32]}`,
    `logger=["tensorboard"]`, `**{"agent.num_steps": 64}`. `tuned=False` leaves tuned values out, `run_dir` is
    where the run folder goes. Raises RlkitError for any mistake in them.
    """
    from rlkit.cli import composition
    from rlkit.runs.hydra_app import override

    choices = {"experiment": experiment, "agent": agent, "env": env}
    given = {key: name for key, name in choices.items() if name is not None} | settings
    overrides = [override(key, value) for key, value in given.items()]
    if not tuned:
        overrides.append("~tuned")
    if run_dir is not None:
        overrides.append(override("hydra.run.dir", run_dir))
    job = composition.compose_job(overrides)
    from rlkit.run import run_training  # imports torch: not for a mistake in the settings

    return run_training(job.config, job.run_dir, hydra_files=job.hydra_files)
