"""Training from Python: keywords instead of a command line, and the same configuration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlkit.errors import RlkitError, one_error, shown

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
    resume: str | Path | None = None,
    **settings: Any,
) -> Result:
    """Trains like `python -m rlkit agent=… env=…` and returns the agent, the summary and the run folder.

    Without an agent or an environment, the experiment's is taken, or else `ppo` or `CartPole-v1`; an agent of your own
    is a class, or its path `package.module:MyAgent`. `settings` are the fields of the configuration:
    `total_timesteps=10_000`, `network={"hidden_sizes": [32]}`, `logger=["tensorboard"]` or
    `logger={"wandb": {"project": "mine"}}`, `verbose=False`, `**{"agent.num_steps": 64}`.
    `tuned=False` leaves tuned values out, and `run_dir` is the path of the run folder. `resume` is the folder of a run
    that goes on where it stopped; then `settings` change some of its fields, and nothing else is given. Raises
    RlkitError for any mistake in the arguments.
    """
    if resume is not None:
        given = {"agent": agent, "env": env, "experiment": experiment, "run_dir": run_dir}
        return _resume(resume, {key: value for key, value in given.items() if value is not None} | settings)
    from rlkit.cli import composition
    from rlkit.runs.grammar import override

    if env is not None and not isinstance(env, str):
        raise RlkitError(_register(env))
    choices = {"experiment": experiment, "agent": agent, "env": env}
    given = {key: name for key, name in choices.items() if name is not None} | _with_logger_fields(settings)
    with one_error():
        overrides = [override(key, value) for key, value in given.items()]
        if not tuned:
            overrides.append("~tuned")
        if run_dir is not None:
            overrides.append(override("hydra.run.dir", run_dir))
        job = composition.compose_job(overrides)
    from rlkit.run import run_training  # only here, since it imports torch: a mistake in the settings ends sooner

    return run_training(job.config, job.run_dir, hydra_files=job.hydra_files)


def _resume(folder: str | Path, settings: Mapping[str, Any]) -> Result:
    """Continues the run in a folder, with some settings changed for good."""
    from rlkit.system.imports import NothingImportedFrom
    from rlkit.system.user_paths import user_path

    run_dir = user_path(folder).absolute()
    with NothingImportedFrom(run_dir):
        from rlkit.cli.composition import resumed
        from rlkit.run import run_training
        from rlkit.runs.grammar import override

        with one_error():
            changes = [override(key, value) for key, value in _with_logger_fields(settings).items()]
            job = resumed(run_dir, changes)
        return run_training(job.config, job.run_dir, hydra_files=job.hydra_files, resume=True)


def _with_logger_fields(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings with a dict of loggers, `{"wandb": {"project": "mine"}}`, taken apart: names, and fields."""
    loggers = settings.get("logger")
    if not isinstance(loggers, Mapping):
        return dict(settings)
    fields = {f"logger.{name}": dict(values) for name, values in loggers.items() if values}
    return {**settings, "logger": list(loggers), **fields}


def _register(env: object) -> str:
    """The advice for an environment, its class or a function that makes it, given in place of an id."""
    spec = getattr(env, "spec", None)
    if spec is not None:
        also = f" and env_kwargs={shown(dict(spec.kwargs))}" if spec.kwargs else ""
        return (
            f"env={shown(env)}: expected an id, by which other processes and saved agents find it: "
            f"env='{spec.id}'{also}"
        )
    made = env if isinstance(env, type) or callable(env) else type(env)
    name = getattr(made, "__name__", type(env).__name__)
    module = getattr(made, "__module__", "my_module")
    module = "my_module" if module == "__main__" else module
    return (
        f"env={name}: expected an id, by which other processes and saved agents find the environment; write "
        f"gymnasium.register('{name}-v0', entry_point='{module}:{name}') into my_envs.py and give "
        f"env='my_envs:{name}-v0'"
    )
