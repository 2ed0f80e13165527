"""One training run of another library's agent, which leaves a run folder as ours do: metrics, summary, model."""

from __future__ import annotations

import importlib.metadata
import math
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml  # type: ignore[import-untyped]
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize

from rlkit.compare.peers import Peer, PeerTask, accepted, differences, mapped_arguments, nested
from rlkit.config import TrainConfig
from rlkit.envs import EnvFactory, make_env
from rlkit.envs.lifetime import close_all
from rlkit.episodes import Evaluation
from rlkit.errors import RlkitError
from rlkit.networks.features import is_image, scaling
from rlkit.run import Evaluations, versions
from rlkit.runs.loggers import CSVLogger
from rlkit.runs.run_folder import RunFolder
from rlkit.spaces import leaf_spaces
from rlkit.system.resources import Clock, peak_memory_mib
from rlkit.system.seeding import run_seeds
from rlkit.trainer import ROWS_PER_RUN, Every


class PeerAgent:
    """A model of SB3's as our evaluator plays it: with the environment's own spaces, and frozen normalisation."""

    def __init__(self, model: Any, space: spaces.Space[Any]) -> None:
        self._model = model
        self.observation_space, self.action_space = space, model.action_space

    def predict(
        self, obs: Any, state: Any = None, episode_start: Any = None, deterministic: bool = True, **masks: Any
    ) -> tuple[Any, Any]:
        """Returns actions for a batch of observations, and the next memory."""
        if masks:
            raise RlkitError(f"{type(self._model).__name__} takes no action masks, which the environment gives")
        normalize = self._model.get_vec_normalize_env()
        if normalize is not None:
            obs = normalize.normalize_obs(obs)
        actions, state = self._model.predict(obs, state, episode_start, deterministic)
        return actions, state


class Recorder(BaseCallback):
    """Logs, and evaluates with our evaluator, as often as our trainer does, outside of the time that is measured."""

    def __init__(self, config: TrainConfig, logger: CSVLogger, evaluate: Callable[[], Evaluation | None]) -> None:
        super().__init__()
        self.clock, self.started = Clock(), time.perf_counter()
        self.episodes = 0
        self.best: float | None = None
        self._metrics, self._evaluate = logger, evaluate
        total = config.total_timesteps
        self._log_due = Every(config.log_interval, total // ROWS_PER_RUN)
        self._evaluation_due = Every(config.eval_interval, total // 10)
        self._since_log: list[tuple[float, float]] = []

    def _on_step(self) -> bool:
        ended = [info["episode"] for info in self.locals["infos"] if "episode" in info]
        self.episodes += len(ended)
        self._since_log += [(episode["r"], episode["l"]) for episode in ended]
        if self._log_due(self.num_timesteps):
            self._log()
        if self._evaluation_due(self.num_timesteps):
            with self.clock.paused():
                self._record(self._evaluate())
        return True

    def _log(self) -> None:
        row: dict[str, float] = {"time/total_episodes": self.episodes}
        if self._since_log:
            returns, lengths = zip(*self._since_log, strict=True)
            row |= {"rollout/episode_return": np.mean(returns), "rollout/episode_length": np.mean(lengths)}
        self._since_log = []
        self._metrics.log({**row, "time/training_time_s": self.clock.wall_s}, self.num_timesteps)

    def _record(self, played: Evaluation | None) -> None:
        if played is None:
            return
        row = {
            "eval/return_mean": played.return_mean,
            "eval/return_std": played.return_std,
            "eval/episode_length": played.length_mean,
            "time/training_time_s": self.clock.wall_s,
        }
        self._metrics.log(row, self.num_timesteps)
        self.best = played.return_mean if self.best is None else max(self.best, played.return_mean)


def train_peer(task: PeerTask, run_dir: Path) -> None:
    """Trains a peer's agent and writes its run folder; raises RlkitError for what it cannot do."""
    config, seeds = task.config, run_seeds(task.config.seed)
    env: dict[str, Any] = {"id": config.env.id, "kwargs": config.env_kwargs, "preprocessing": config.env.preprocessing}
    given, dropped = _arguments(task)
    with ExitStack() as stack:
        envs = _make_envs(EnvFactory(**env), task)
        stack.callback(envs.close)
        space = _own_space(EnvFactory(**env))
        policy = _policy(task.peer, space)
        seed = int(seeds.agent % 2**31)
        try:
            model = task.peer.find()(policy, envs, seed=seed, device=_device(config, policy), **nested(given))
        except (AssertionError, TypeError, ValueError) as error:
            raise RlkitError(f"{task.peer.label} cannot be made for {config.env.id}: {error}") from error
        folder = RunFolder.create(run_dir, {"config.yaml": _config_text(task, policy, envs, given)})
        stack.callback(folder.release)
        logger = CSVLogger(run_dir)
        stack.callback(logger.close)
        evaluations = Evaluations(config, PeerAgent(model, space), env, seeds, stack)
        recorder = Recorder(config, logger, lambda: evaluations.during_training(config.eval_episodes))
        model.learn(config.total_timesteps, recorder)
        recorder.clock.stop()
        envs.close()
        final = evaluations.at_the_end(config.final_eval_episodes) if config.final_eval_episodes else None
        model.save(run_dir / "model.zip")
        notes = [*_differences(task, space, policy), *(f"{task.peer.label} has no argument {name}" for name in dropped)]
        folder.write_summary(_summary(task, model, recorder, final, notes))


def _arguments(task: PeerTask) -> tuple[dict[str, Any], list[str]]:
    """Returns the constructor's arguments by dotted names, and those that the peer does not have."""
    mapped = mapped_arguments(task.config) if task.same else {}
    kept = accepted(task.peer, mapped, strict=False)
    return kept | accepted(task.peer, task.more, strict=True), [name for name in mapped if name not in kept]


def _make_envs(factory: EnvFactory, task: PeerTask) -> VecEnv:
    """Makes a vector of environments as SB3's documentation has it; its seeds come from the model's."""
    count = task.config.num_envs if task.same else 1
    envs: VecEnv = DummyVecEnv([lambda: Monitor(factory())] * count)
    agent, network = task.config.agent, task.config.network
    rewards = getattr(agent, "normalize_rewards", False)
    if task.same and (rewards or network.normalize_obs):
        envs = VecNormalize(envs, norm_obs=network.normalize_obs, norm_reward=rewards, gamma=agent.gamma)
    return envs


def _own_space(factory: EnvFactory) -> spaces.Space[Any]:
    """The environment's observation space, which SB3 may transpose for its networks."""
    env = make_env(factory)
    close_all([env])
    return env.observation_space


def _policy(peer: Peer, space: spaces.Space[Any]) -> str:
    """Names the policy that SB3's documentation has for a space."""
    kind = "MultiInput" if isinstance(space, spaces.Dict) else "Cnn" if is_image_space(space) else "Mlp"
    return f"{kind}LstmPolicy" if peer.name == "recurrent-ppo" else f"{kind}Policy"


def _device(config: TrainConfig, policy: str) -> str:
    """Chooses a GPU where ours would have one: for images, unless told otherwise."""
    if config.device != "auto":
        return config.device
    return "cuda" if torch.cuda.is_available() and not policy.startswith("Mlp") else "cpu"


def _config_text(task: PeerTask, policy: str, envs: VecEnv, given: Mapping[str, Any]) -> str:
    """Writes the configuration of the run in the form of ours, with SB3's arguments as the agent's fields."""
    wrapped = (
        {"VecNormalize": f"observations {envs.norm_obs}, rewards {envs.norm_reward}"}
        if isinstance(envs, VecNormalize)
        else {}
    )
    config = task.config
    tree = {
        "agent": {"name": task.peer.label, "policy": policy, **{key: _plain(value) for key, value in given.items()}},
        "wrappers": wrapped,
        "env": {"id": config.env.id, "preprocessing": config.env.preprocessing},
        "env_kwargs": {str(key): _plain(value) for key, value in config.env_kwargs.items()},
        **{name: getattr(config, name) for name in ("total_timesteps", "seed", "eval_interval", "eval_episodes")},
        "num_envs": envs.num_envs,
        "final_eval_episodes": config.final_eval_episodes,
    }
    return str(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)).replace("${", "$ {")


def _plain(value: Any) -> Any:
    """Returns a value as YAML has it: classes by their name, schedules as a sentence."""
    if isinstance(value, type):
        return value.__name__
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return str(value)


def _differences(task: PeerTask, space: spaces.Space[Any], policy: str) -> list[str]:
    """Lists what the peer does otherwise; nothing for its defaults, which are other values on purpose."""
    if not task.same:
        return []
    found, network = differences(task.config, task.peer), task.config.network
    leaves = leaf_spaces(space)
    images = [is_image(leaf, network.encoder) for leaf in leaves]
    if any(images) and policy.startswith("Mlp"):
        found.append(f"{task.peer.label} has no CNN for {space}, and flattens it; ours has one")
    for leaf, image in zip(leaves, images, strict=True):
        far = isinstance(leaf, spaces.Box) and not image and scaling(leaf.low, leaf.high).changes
        if far and network.scale_obs and not network.normalize_obs:
            found.append(f"network.scale_obs=True: {task.peer.label} does not scale observations by their far bounds")
            break
    return found


def _summary(
    task: PeerTask, model: Any, recorder: Recorder, final: Evaluation | None, notes: list[str]
) -> dict[str, Any]:
    config, clock, wall_time = task.config, recorder.clock, time.perf_counter() - recorder.started
    package = {task.peer.package: importlib.metadata.version(task.peer.package)}
    return {
        "agent": task.peer.label,
        "env": config.env.id,
        "seed": config.seed,
        "device": str(model.device),
        "compute": task.peer.package_label,
        "total_timesteps": model.num_timesteps,
        "episodes": recorder.episodes,
        "wall_time_s": round(wall_time, 3),
        "steps_per_second": round(model.num_timesteps / wall_time, 1),
        "training_time_s": round(clock.wall_s, 3),
        "training_cpu_s": round(clock.cpu_s, 3),
        "peak_memory_mib": round(peak_memory_mib(), 1),
        "eval_return_mean": final.return_mean if final else None,
        "eval_return_std": final.return_std if final else None,
        "eval_episodes": len(final.returns) if final else 0,
        "best_eval_return_mean": recorder.best,
        "notes": notes,
        "versions": {**versions(), "stable-baselines3": importlib.metadata.version("stable-baselines3"), **package},
        "status": "finished",
    }
