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

    Without an agent or an environment, the experiment's is taken, or else `ppo` or `CartPole-v1`; an agent of your own
    is a class, or its path `package.module:MyAgent`. `settings` are the fields of the configuration:
    `total_timesteps=10_000`, `network={"hidden_sizes": [32]}`, `logger=["tensorboard"]`, `**{"agent.num_steps": 64}`.
    `tuned=False` leaves tuned values out, and `run_dir` is the path of the run folder. Raises RlkitError for any
    mistake in the arguments.
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
    from rlkit.run import run_training  # only here, since it imports torch: a mistake in the settings ends sooner

    return run_training(job.config, job.run_dir, hydra_files=job.hydra_files)
