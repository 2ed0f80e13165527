"""Evaluating an agent: `evaluate_policy` in Python, `python -m rlkit.evaluate RUN` on the command line."""

from __future__ import annotations

import functools
import json
import math
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rlkit.config import DEVICES
from rlkit.errors import RlkitError, check_choice, check_range, unknown

if TYPE_CHECKING:
    import gymnasium as gym

    Env = gym.Env[Any, Any]

MAX_EPISODE_STEPS = 100_000
"""An episode is cut here: an environment without a time limit and an agent that never ends it would go on for ever."""


class Predictor(Protocol):
    """What can be evaluated: our agents, and Stable-Baselines3's."""

    observation_space: Any
    action_space: Any

    @property
    def predict(self) -> Callable[..., tuple[Any, Any]]:
        """predict(obs, state, episode_start, deterministic): actions for a batch of obs, and the next memory."""


@dataclass
class Evaluation:
    """The episodes of one evaluation, in the order of their seeds."""

    returns: list[float]
    """Undiscounted sums of rewards."""
    lengths: list[int]
    """Steps."""

    @property
    def return_mean(self) -> float:
        """Mean over episodes."""
        return math.fsum(self.returns) / len(self.returns)

    @property
    def return_std(self) -> float:
        """Standard deviation over episodes: the spread of one agent's episodes, not of training runs."""
        mean = self.return_mean
        return math.sqrt(math.fsum((value - mean) ** 2 for value in self.returns) / len(self.returns))

    @property
    def length_mean(self) -> float:
        """Mean over episodes."""
        return sum(self.lengths) / len(self.lengths)


def evaluate_policy(
    agent: Predictor,
    env: str | Env | Sequence[Env],
    episodes: int = 20,
    *,
    env_kwargs: Mapping[str, Any] | None = None,
    preprocessing: str = "auto",
    num_envs: int = 8,
    seed: int = 0,
    deterministic: bool = True,
) -> Evaluation:
    """Plays `episodes` whole episodes and returns their undiscounted returns and lengths.

    `env` is an id, an environment, or several equal ones to play side by side; `env_kwargs`, `preprocessing` and
    `num_envs` (no more than episodes are made) are for an id. Episode i starts from `seed + i` on any number of
    environments, and every episode that starts counts, so short ones weigh no more than long ones. Action masks
    are taken from `info["action_mask"]`. Raises RlkitError when the environment does not fit the agent, or fails.
    """
    import gymnasium as gym

    check_range("episodes", episodes, 1)
    if isinstance(env, gym.Env):
        return _play(agent, [env], episodes, seed, deterministic)
    if not isinstance(env, str):
        return _play(agent, env[:episodes], episodes, seed, deterministic)

    from rlkit.envs import EnvFactory, make_env

    check_range("num_envs", num_envs, 1)
    factory = EnvFactory(env, env_kwargs or {}, preprocessing, training=False)
    with ExitStack() as stack:
        envs = []
        for make in [functools.partial(make_env, factory)] + [factory] * (min(episodes, num_envs) - 1):
            envs.append(make())
            stack.callback(envs[-1].close)
        return _play(agent, envs, episodes, seed, deterministic)


def _play(agent: Predictor, envs: Sequence[Env], episodes: int, seed: int, deterministic: bool) -> Evaluation:
    """Plays episode i on environment i modulo their number."""
    import numpy as np

    from rlkit.envs.check import env_errors
    from rlkit.spaces import stacked

    space, num_envs = envs[0].observation_space, len(envs)
    name = envs[0].spec.id if envs[0].spec else type(envs[0].unwrapped).__name__
    _check_spaces(agent, envs[0], name)
    returns, lengths = [0.0] * episodes, [0] * episodes
    playing = list(range(num_envs))  # the episode that each environment is at
    with env_errors(name, "reset"):
        starts = [env.reset(seed=seed + i) for i, env in enumerate(envs)]
    observations = [obs for obs, _ in starts]
    masks = [info.get("action_mask") for _, info in starts]
    episode_start = np.ones(num_envs, dtype=bool)
    state = None
    while min(playing) < episodes:
        # Environments that are done stay in the batch, with their last observation: a recurrent agent's memory has
        # one row per environment.
        masked = {} if masks[0] is None else {"action_masks": np.array(masks)}
        obs = stacked(space, observations)
        actions, state = agent.predict(
            obs, state=state, episode_start=episode_start, deterministic=deterministic, **masked
        )
        episode_start = np.zeros(num_envs, dtype=bool)
        for i, env in enumerate(envs):
            if (episode := playing[i]) >= episodes:
                continue
            with env_errors(name, "step"):
                observations[i], reward, terminated, truncated, info = env.step(actions[i])
            returns[episode] += float(reward)
            lengths[episode] += 1
            if terminated or truncated or lengths[episode] == MAX_EPISODE_STEPS:
                if not math.isfinite(returns[episode]):
                    raise RlkitError(f"env {name}: the return of an episode is {returns[episode]}")
                playing[i] += num_envs
                if playing[i] < episodes:
                    with env_errors(name, "reset"):
                        observations[i], info = env.reset(seed=seed + playing[i])
                    episode_start[i] = True
            masks[i] = info.get("action_mask", masks[i])
    return Evaluation(returns, lengths)


def _check_spaces(agent: Predictor, env: Env, name: str) -> None:
    """Raises RlkitError unless the agent can see and act in the environment."""
    if not _fits(agent.observation_space, env.observation_space):
        kind, have, want = "observations", env.observation_space, agent.observation_space
    elif agent.action_space != env.action_space:
        kind, have, want = "actions", env.action_space, agent.action_space
    else:
        return
    raise RlkitError(f"env {name} does not fit the agent: its {kind} are {have}, the agent's are {want}")


def _fits(agent_space: Any, env_space: Any) -> bool:
    """Whether two observation spaces differ in nothing but the bounds of their boxes."""
    from gymnasium import spaces

    match agent_space, env_space:
        case spaces.Box(), spaces.Box():
            return bool(agent_space.shape == env_space.shape and agent_space.dtype == env_space.dtype)
        case spaces.Dict(), spaces.Dict():
            return agent_space.keys() == env_space.keys() and all(
                _fits(agent_space[key], env_space[key]) for key in agent_space
            )
        case spaces.Tuple(), spaces.Tuple():
            return len(agent_space) == len(env_space) and all(map(_fits, agent_space, env_space))
    return bool(agent_space == env_space)


# The command


@dataclass
class EvaluateConfig:
    """What `python -m rlkit.evaluate RUN key=value …` takes."""

    episodes: int = 20
    """Whole episodes to play."""
    seed: int = 0
    """Episode i starts from seed + i."""
    deterministic: bool = True
    """Take the most likely action; false: sample, as in training."""
    video: bool = False
    """Also record the first episodes, as videos/episode-<i>.mp4."""
    video_episodes: int = 3
    """How many of them."""
    device: str = "auto"
    """auto, cpu or cuda."""
    env: str | None = None
    """Another environment than the one that the agent was trained on."""
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments for the environment, on top of those of the training unless `env` is given."""

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
    """What `--help` prints."""
    from rlkit.help import field_docs

    docs = field_docs(EvaluateConfig())
    options = [f"{doc.name}={json.dumps(doc.default)}".replace('"', "") for doc in docs]
    lines = [f"  {option:<22}{doc.doc}" for option, doc in zip(options, docs, strict=True)]
    return "\n".join([USAGE, *lines])


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code: 0, 2 for a mistake of the user's, 130 after Ctrl-C."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if {"-h", "--help"} & set(arguments):
        print(help_text())
        return 0
    try:
        run, config = parse(arguments)
        _evaluate_and_report(run, config)
    except RlkitError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def parse(arguments: Sequence[str]) -> tuple[Path, EvaluateConfig]:
    """The run folder and the options; raises RlkitError for one that is unknown, missing, or of the wrong type."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError  # type: ignore[import-untyped]

    options = [argument for argument in arguments if re.match(r"[\w.]+=", argument)]
    runs = [argument for argument in arguments if argument not in options]
    if flags := [run for run in runs if run.startswith("-")]:
        raise RlkitError(f"unknown option '{flags[0]}': options are key=value, and --help")
    if len(runs) != 1:
        given = f"not {' and '.join(runs)}" if runs else "and none was given"
        raise RlkitError(f"expected one run folder, checkpoint or model file, {given} (--help says more)")
    config = OmegaConf.structured(EvaluateConfig)
    for option in options:
        key = re.split(r"[.=]", option)[0]
        if key not in config:
            raise unknown("key", key, [one.name for one in fields(EvaluateConfig)])
        try:
            config.merge_with_dotlist([option])
        except (OmegaConfBaseException, YAMLError) as error:
            raise RlkitError(f"{option}: {str(error).splitlines()[0]}") from error
    typed: EvaluateConfig = OmegaConf.to_object(config)  # type: ignore[assignment]
    typed.validate()
    return Path(runs[0]), typed


def _evaluate_and_report(run: Path, config: EvaluateConfig) -> None:
    from rlkit import checkpoint, video
    from rlkit.envs import EnvFactory
    from rlkit.files import write_json

    # Without them, pygame greets on stdout, and SDL looks for a display and complains on stderr.
    os.environ |= {"PYGAME_HIDE_SUPPORT_PROMPT": "hide", "SDL_VIDEODRIVER": "dummy"}
    folder = checkpoint.find(run)
    env: dict[str, Any] = {"id": config.env, "kwargs": {}, "preprocessing": "auto"}
    if config.env is None:
        env = checkpoint.read_env(folder)
    factory = EnvFactory(env["id"], {**env["kwargs"], **config.env_kwargs}, env["preprocessing"], training=False)
    filmed = video.make_recordable(factory) if config.video else None  # before the episodes: it may not be possible
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
    print(f"{agent.config.name} on {factory.id}, from {folder}")
    print(
        f"return {evaluation.return_mean:.2f} ± {evaluation.return_std:.2f} over {config.episodes} episodes "
        f"({min(returns):.2f} to {max(returns):.2f}), mean length {evaluation.length_mean:.1f}"
    )
    run_dir = folder.parent.parent if folder.parent.name == "checkpoints" else folder
    report = {
        "checkpoint": str(folder),
        "env": factory.id,
        "env_kwargs": factory.kwargs,
        "episodes": config.episodes,
        "seed": config.seed,
        "deterministic": config.deterministic,
        "return_mean": evaluation.return_mean,
        "return_std": evaluation.return_std,
        "length_mean": evaluation.length_mean,
        **asdict(evaluation),
    }
    write_json(run_dir / "evaluation.json", report)
    print(f"written: {run_dir / 'evaluation.json'}")
    if filmed is not None:
        count = min(config.video_episodes, config.episodes)
        for path in video.record(
            agent, filmed, run_dir / "videos", count, seed=config.seed, deterministic=config.deterministic
        ):
            print(f"video: {path}")
        filmed.close()


if __name__ == "__main__":
    sys.exit(main())
