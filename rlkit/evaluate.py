"""The command `python -m rlkit.evaluate RUN`, which plays and records episodes with a saved agent."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from rlkit.config import DEVICES
from rlkit.episodes import evaluate_policy
from rlkit.errors import RlkitError, check_choice, check_range
from rlkit.runs.command import exit_code, typed_options, usage_with_options
from rlkit.system.imports import NothingImportedFrom, return_to_working_directory
from rlkit.system.terminal import prepare, say
from rlkit.system.user_paths import user_path


@dataclass
class EvaluateConfig:
    """Options of `python -m rlkit.evaluate RUN key=value …`."""

    episodes: int = 20
    """Number of whole episodes to play."""
    seed: int = 0
    """Episode i starts from seed + i."""
    deterministic: bool = True
    """Take the most likely action; false: sample actions, as in training."""
    video: bool = False
    """Also record the first episodes, as videos/episode-<i>.mp4."""
    video_episodes: int = 3
    """Number of episodes that `video` records."""
    device: str = "auto"
    """auto, cpu or cuda."""
    env: str | None = None
    """Another environment to play in; null: the one that the agent was trained on."""
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments for the environment, in addition to those of the training unless `env` is given."""

    def validate(self) -> None:
        """Raises RlkitError on the first field whose value cannot work."""
        check_range("episodes", self.episodes, 1)
        check_range("seed", self.seed, 0)
        check_range("video_episodes", self.video_episodes, 1)
        check_choice("device", self.device, DEVICES)


USAGE = """\
usage: python -m rlkit.evaluate RUN [key=value …]

Plays episodes with a saved agent, prints their return, and writes evaluation.json (and videos) into the run folder.
RUN is a run folder (its best checkpoint, else its last), a checkpoint folder, or a model.safetensors file.
For example: python -m rlkit.evaluate runs/ppo/CartPole-v1/2026-01-31_12-00-00-seed0 episodes=100 video=true
"""


def help_text() -> str:
    """Returns the text that `--help` prints."""
    return usage_with_options(USAGE, EvaluateConfig())


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code: 0, 2 for a mistake of the user's, 130 after Ctrl-C."""
    prepare()
    arguments = sys.argv[1:] if arguments is None else arguments
    if {"-h", "--help"} & set(arguments):
        say(help_text())
        return 0
    return exit_code(lambda: _evaluate(*parse(arguments)))


def _evaluate(run: Path, config: EvaluateConfig) -> None:
    """Evaluates while no module in the run folder can be imported, unless the user names one."""
    if config.env is not None and ":" in config.env:  # the user's own word, even for code in the run folder
        return_to_working_directory()
        _evaluate_and_report(run, config)
    else:
        with NothingImportedFrom(run):
            _evaluate_and_report(run, config)


def parse(arguments: Sequence[str]) -> tuple[Path, EvaluateConfig]:
    """Returns the run folder and the options; raises RlkitError if one is unknown, missing or of the wrong type."""
    options = [argument for argument in arguments if _is_option(argument)]
    runs = [argument for argument in arguments if argument not in options]
    if flags := [run for run in runs if run.startswith("-")]:
        raise RlkitError(f"unknown option '{flags[0]}': options are key=value, and --help")
    if len(runs) != 1:
        given = f"not {' and '.join(runs)}" if runs else "and none was given"
        raise RlkitError(f"expected one run folder, checkpoint or model file, {given} (--help says more)")
    return user_path(runs[0]), typed_options("evaluate", EvaluateConfig, options, open_fields=["env_kwargs"])


def _is_option(argument: str) -> bool:
    """True for `key=value`, unless the key is no option and the word is a path: a sweep's `agent=ppo,seed=0`."""
    key = re.match(r"[+]*(\w+)[\w.]*=", argument)
    known = {option.name for option in fields(EvaluateConfig)}
    return key is not None and (key[1] in known or not user_path(argument).exists())


def _evaluate_and_report(run: Path, config: EvaluateConfig) -> None:
    from rlkit import checkpoint, video
    from rlkit.envs import EnvFactory
    from rlkit.envs.lifetime import close_all
    from rlkit.runs.exact_json import to_json
    from rlkit.runs.files import write_json
    from rlkit.runs.run_folder import find_checkpoint

    # The first variable keeps pygame from greeting on stdout; the second keeps SDL from looking for a display, and
    # complaining about it on stderr.
    os.environ |= {"PYGAME_HIDE_SUPPORT_PROMPT": "hide", "SDL_VIDEODRIVER": "dummy"}
    folder = find_checkpoint(run)
    env: dict[str, Any] = {"id": config.env, "kwargs": {}, "preprocessing": "auto"}
    if config.env is None:
        env = checkpoint.read_env(folder)
    factory = EnvFactory(env["id"], {**env["kwargs"], **config.env_kwargs}, env["preprocessing"], training=False)
    filmed = video.make_recordable(factory) if config.video else None  # first, because it may turn out impossible
    agent = checkpoint.load(folder, device=config.device)
    evaluation = evaluate_policy(
        agent,
        factory.id,
        config.episodes,
        env_kwargs=factory.kwargs,
        preprocessing=factory.preprocessing,
        seed=config.seed,
        deterministic=config.deterministic,
    )
    returns = evaluation.returns
    run_dir = folder.parent.parent if folder.parent.name == "checkpoints" else folder
    report = {
        "checkpoint": str(folder),
        "env": factory.id,
        "env_kwargs": to_json(factory.kwargs),
        "episodes": config.episodes,
        "seed": config.seed,
        "deterministic": config.deterministic,
        "return_mean": evaluation.return_mean,
        "return_std": evaluation.return_std,
        "length_mean": evaluation.length_mean,
        **asdict(evaluation),
    }
    try:
        write_json(run_dir / "evaluation.json", report)
    finally:  # even where it cannot be written, as in a colleague's folder
        say(f"{agent.config.name} on {factory.id}, from {folder}")
        say(
            f"return {evaluation.return_mean:.2f} ± {evaluation.return_std:.2f} over {config.episodes} episodes "
            f"({min(returns):.2f} to {max(returns):.2f}), mean length {evaluation.length_mean:.1f}"
        )
        if remark := evaluation.remark():
            say(remark)
    say(f"written: {run_dir / 'evaluation.json'}")
    if filmed is not None:
        count = min(config.video_episodes, config.episodes)
        for path in video.record(
            agent, filmed, run_dir / "videos", count, seed=config.seed, deterministic=config.deterministic
        ):
            say(f"video: {path}")
        close_all([filmed])


if __name__ == "__main__":
    sys.exit(main())
