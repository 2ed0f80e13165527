"""PPO, A2C and DQN with Stable-Baselines3's interface, on our agents: the one import that a script changes.

`learn` collects and updates as rlkit's trainer does, and calls SB3's callbacks where SB3 would. Environments, wrappers,
callbacks and the logger are SB3's own; networks, buffers and updates are ours.
"""

from __future__ import annotations

import inspect
import io
import sys
import time
from collections import deque
from collections.abc import Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import stable_baselines3
from stable_baselines3.common import utils
from stable_baselines3.common.base_class import BaseAlgorithm, maybe_make_env
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, ConvertCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.utils import safe_mean
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, unwrap_vec_normalize

from rlkit.agents.base import Agent
from rlkit.agents.dqn import DQNConfig
from rlkit.collector import Collector
from rlkit.errors import RlkitError
from rlkit.registry import make_agent
from rlkit.runs.progress import Progress
from rlkit.sb3 import saving
from rlkit.sb3.arguments import agent_config, network_config, schedules
from rlkit.sb3.hyperparameters import COUNTERPARTS, theirs
from rlkit.sb3.policy import Policy
from rlkit.sb3.vector import GymnasiumVectorEnv
from rlkit.setting import Setting
from rlkit.system.seeding import run_seeds
from rlkit.system.subnormals import flushed
from rlkit.system.threads import one_thread

KEPT = ("verbose", "seed", "stats_window_size")
"""Arguments that a file keeps beside the agent."""


class ProgressCallback(BaseCallback):
    """Shows rlkit's progress bar, which needs no package that SB3's does."""

    def _on_training_start(self) -> None:
        self._stack = ExitStack()
        self._progress = self._stack.enter_context(Progress(self.model._total_timesteps))

    def _on_step(self) -> bool:
        episodes = self.model.ep_info_buffer
        self._progress.update(self.num_timesteps, {"rollout/episode_return": episodes[-1]["r"]} if episodes else {})
        return True

    def _on_training_end(self) -> None:
        self._stack.close()


class Algorithm:
    """A model with SB3's interface; its arguments are those of SB3's class of that name."""

    theirs: ClassVar[str]
    """The name of SB3's class."""
    log_interval: ClassVar[int]
    """Updates between rows of the log, unless `learn` says otherwise."""
    env: VecEnv | None
    agent: Agent[Any]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Makes the agent; raises RlkitError for arguments that ask for what ours cannot do."""
        self._configure(self._bound(args, kwargs))
        env, arguments = self.arguments["env"], self.arguments
        if env is None:
            raise RlkitError("env=None: expected an id, an environment, or a vector environment of SB3's")
        self._wrap(env)
        counterpart, space = COUNTERPARTS[self.theirs], self.observation_space
        q_learning = counterpart.config is DQNConfig
        kwargs = dict(arguments["policy_kwargs"] or {})
        network = network_config(arguments["policy"], kwargs, space, q_learning=q_learning)
        config = agent_config(counterpart, arguments, self.n_envs)
        seeds = run_seeds(int(np.random.randint(2**31)) if self.seed is None else self.seed)
        device = {"cuda:0": "cuda"}.get(str(arguments["device"]), str(arguments["device"]))
        setting = Setting(space, self.action_space, network, self.n_envs, seeds.agent, device)
        self._take(make_agent(config, setting))

    def _bound(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Returns SB3's arguments by name, with SB3's defaults."""
        bound = inspect.signature(getattr(stable_baselines3, self.theirs)).bind(*args, **kwargs)
        bound.apply_defaults()
        return dict(bound.arguments)

    def _configure(self, arguments: dict[str, Any]) -> None:
        """Takes over arguments, and begins to count."""
        self.arguments = arguments
        for name in ("verbose", "seed", "tensorboard_log", "learning_rate", "gamma", "policy_kwargs"):
            setattr(self, name, arguments.get(name))
        self.seed: int | None = arguments.get("seed")
        self.verbose: int = arguments.get("verbose", 0)
        self.env = None
        self._collector: Collector | None = None
        self._vectors: GymnasiumVectorEnv | None = None
        self.num_timesteps = self._total_timesteps = self._num_timesteps_at_start = self._n_updates = 0
        self._current_progress_remaining = 1.0
        self._logger: Logger | None = None
        self._metrics: dict[str, float] = {}
        self._custom_logger = False
        self.start_time = 0.0
        self.ep_info_buffer: deque[Any] = deque(maxlen=arguments.get("stats_window_size", 100))
        self.ep_success_buffer: deque[Any] = deque(maxlen=arguments.get("stats_window_size", 100))

    def _take(self, agent: Agent[Any]) -> None:
        """Takes the agent over, and makes the buffer that it learns from."""
        self.agent, self.device = agent, agent.device
        self.policy = Policy(agent)
        self._buffer: Any = None

    def _wrap(self, env: Any) -> None:
        """Makes SB3's vector environment of what the user gave."""
        self.env = BaseAlgorithm._wrap_env(maybe_make_env(env, self.verbose), self.verbose, True)
        self.observation_space, self.action_space = self.env.observation_space, self.env.action_space
        self.n_envs = self.env.num_envs
        self._collector = None

    # Learning

    def learn(
        self,
        total_timesteps: int,
        callback: Any = None,
        log_interval: int | None = None,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Trains for so many steps more, and calls SB3's callbacks at each; returns itself."""
        if self.env is None:
            raise RlkitError("this model has no environment: model.set_env(env) gives it one")
        interval = self.log_interval if log_interval is None else log_interval
        callback = self._begin(total_timesteps, callback, tb_log_name or self.theirs, reset_num_timesteps, progress_bar)
        callback.on_training_start(locals(), globals())
        iteration = 0
        with nullcontext() if self.policy.convolutional else one_thread():
            while self.num_timesteps < self._total_timesteps:
                if not self._collect(callback):
                    break
                iteration += 1
                self._update()
                if interval and iteration % interval == 0:
                    self.dump_logs(iteration)
        callback.on_training_end()
        return self

    def _begin(
        self, total_timesteps: int, callback: Any, name: str, reset_num_timesteps: bool, progress_bar: bool
    ) -> BaseCallback:
        """Sets counters, environment, buffer, logger and callback up for `learn`."""
        self.start_time = time.time_ns()
        if reset_num_timesteps:
            self.num_timesteps = 0
            self.ep_info_buffer.clear()
            self.ep_success_buffer.clear()
            self._collector = None
        self._num_timesteps_at_start = self.num_timesteps
        self._total_timesteps = total_timesteps + self.num_timesteps
        if not self._custom_logger:
            folder = self.arguments.get("tensorboard_log")
            self._logger = utils.configure_logger(self.verbose, folder, name, reset_num_timesteps)
        if self._collector is None:
            assert self.env is not None
            self._vectors = GymnasiumVectorEnv(self.env, self.seed)
            seed = int(np.random.randint(2**31)) if self.seed is None else self.seed
            self._collector = Collector(self._vectors, [seed])
        if self._buffer is None:
            self._buffer = self.agent.make_buffer(self.n_envs)
        self._explore()
        if not isinstance(callback, BaseCallback):
            callback = CallbackList(callback) if isinstance(callback, list) else ConvertCallback(callback)
        if progress_bar:
            callback = CallbackList([callback, ProgressCallback()])
        callback.init_callback(self)
        made: BaseCallback = callback
        return made

    def _collect(self, callback: BaseCallback) -> bool:
        """Collects as many steps as an update takes; returns False where a callback ends the training."""
        assert self._collector is not None
        assert self._vectors is not None
        callback.on_rollout_start()
        for _ in range(self.agent.steps_per_update):
            self._collector.collect(self.agent, self._buffer, 1)
            self.num_timesteps += self.n_envs
            self._note_episodes(self._vectors.last["infos"])
            callback.update_locals({"self": self, **self._vectors.last})
            if not callback.on_step():
                if hasattr(self._buffer, "clear"):
                    self._buffer.clear()
                return False
        callback.on_rollout_end()
        return True

    def _note_episodes(self, infos: list[dict[str, Any]]) -> None:
        for info in infos:
            if "episode" in info:
                self.ep_info_buffer.append(info["episode"])
                if "is_success" in info:
                    self.ep_success_buffer.append(info["is_success"])

    def _update(self) -> None:
        """Learns from what was collected, at the values that schedules have now."""
        spent = min(1.0, self.num_timesteps / self._total_timesteps)
        self._current_progress_remaining = 1.0 - spent
        names = COUNTERPARTS[self.theirs].names
        now = {names[name]: float(each(1.0 - spent)) for name, each in schedules(self.arguments).items()}
        configured = self.agent.config
        self.agent.config = replace(configured, **now)  # type: ignore[type-var]  # every config is a dataclass
        try:
            with flushed(), np.errstate(over="ignore", invalid="ignore", divide="ignore"):
                self._metrics = self.agent.update(self._buffer, spent)
        finally:
            self.agent.config = configured  # which is saved, and may not have a rate of 0
        self._n_updates += 1
        self._explore()

    def _explore(self) -> None:
        """Lets DQN act at random until it begins to learn, as SB3 does."""
        if self.num_timesteps < getattr(self.agent.config, "learning_starts", 0):
            self.agent.model.get_buffer("epsilon").fill_(1.0)

    def dump_logs(self, iteration: int = 0) -> None:
        """Records what SB3 records, and our metrics under the names that they have here."""
        seconds = max((time.time_ns() - self.start_time) / 1e9, sys.float_info.epsilon)
        if self.ep_info_buffer:
            self.logger.record("rollout/ep_rew_mean", safe_mean([info["r"] for info in self.ep_info_buffer]))
            self.logger.record("rollout/ep_len_mean", safe_mean([info["l"] for info in self.ep_info_buffer]))
        if self.ep_success_buffer:
            self.logger.record("rollout/success_rate", safe_mean(list(self.ep_success_buffer)))
        self.logger.record("time/fps", int((self.num_timesteps - self._num_timesteps_at_start) / seconds))
        self.logger.record("time/iterations", iteration, exclude="tensorboard")
        self.logger.record("time/time_elapsed", int(seconds), exclude="tensorboard")
        self.logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        for name, value in self._metrics.items():
            self.logger.record(name, value)
        self.logger.dump(step=self.num_timesteps)

    # Acting

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[Any, Any]:
        """Returns actions for one observation or a batch, and the state; sampled ones unless `deterministic`."""
        return self.policy.predict(observation, state, episode_start, deterministic)

    # Environments

    def get_env(self) -> VecEnv | None:
        """Returns the vector environment."""
        return self.env

    def get_vec_normalize_env(self) -> VecNormalize | None:
        """Returns the VecNormalize around the environment, None if there is none."""
        return None if self.env is None else unwrap_vec_normalize(self.env)

    def set_env(self, env: Any, force_reset: bool = True) -> None:
        """Takes another environment, of equal spaces and as many parts; raises RlkitError for others."""
        wrapped = BaseAlgorithm._wrap_env(maybe_make_env(env, self.verbose), self.verbose, True)
        for name in ("observation_space", "action_space"):
            if getattr(wrapped, name) != getattr(self.agent, name):
                has, needed = getattr(wrapped, name), getattr(self.agent, name)
                raise RlkitError(f"env has the {name} {has}: the model's is {needed}")
        if self._buffer is not None and wrapped.num_envs != self.n_envs:
            raise RlkitError(f"env has {wrapped.num_envs} environments: this model learns from {self.n_envs}")
        self.env, self.n_envs, self._collector = wrapped, wrapped.num_envs, None

    def set_random_seed(self, seed: int | None = None) -> None:
        """Seeds the environments at their next reset, and Python's and NumPy's generators; None does nothing."""
        if seed is not None:
            utils.set_random_seed(seed)
            self.seed = seed

    # Loggers

    @property
    def logger(self) -> Logger:
        """SB3's logger."""
        assert self._logger is not None, "there is a logger once learning has begun"
        return self._logger

    def set_logger(self, logger: Logger) -> None:
        """Takes a logger in place of the default."""
        self._logger, self._custom_logger = logger, True

    # Parameters and files

    def get_parameters(self) -> dict[str, Any]:
        """Returns the tensors of the policy and of its optimiser."""
        return {"policy": self.policy.state_dict(), "policy.optimizer": self.agent.state_dict()}

    def set_parameters(self, load_path_or_dict: Any, exact_match: bool = True, device: Any = "auto") -> None:
        """Takes the tensors that `get_parameters` returned, or those in a file; raises RlkitError for others."""
        given = load_path_or_dict
        parameters = given if isinstance(given, Mapping) else type(self).load(given).get_parameters()
        for name in parameters:
            if name not in ("policy", "policy.optimizer"):
                raise RlkitError(f"parameters of {name!r}: expected policy and policy.optimizer")
        if exact_match and set(parameters) != {"policy", "policy.optimizer"}:
            raise RlkitError(f"parameters of {sorted(parameters)}: expected policy and policy.optimizer")
        if "policy.optimizer" in parameters:
            self.agent.load_state_dict(parameters["policy.optimizer"])
        if "policy" in parameters:
            self.policy.load_state_dict(parameters["policy"], strict=exact_match)

    def save(self, path: str | Path | io.BufferedIOBase, exclude: Any = None, include: Any = None) -> None:
        """Writes the model into a zip file of safetensors and JSON, which `load` reads without executing anything."""
        kept = {name: self.arguments.get(name) for name in KEPT}
        saving.save(self.agent, path, {"theirs": self.theirs, "num_timesteps": self.num_timesteps, "arguments": kept})

    @classmethod
    def load(
        cls,
        path: str | Path | io.BufferedIOBase,
        env: Any = None,
        device: str = "auto",
        custom_objects: Any = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        **kwargs: Any,
    ) -> Self:
        """Reads a model that `save` wrote, or SB3; raises RlkitError for other files, and for another algorithm's."""
        agent, facts = saving.load(path, device=str(device))
        if facts["theirs"] != cls.theirs:
            raise RlkitError(f"{path} holds a model of {facts['theirs']}: expected one of {cls.theirs}")
        model = cls.__new__(cls)
        parameters = inspect.signature(getattr(stable_baselines3, cls.theirs)).parameters
        arguments = {name: each.default for name, each in parameters.items()}
        own = theirs(COUNTERPARTS[cls.theirs], agent.config, 1)
        stored = facts.get("arguments", {})
        kept = {name: stored[name] for name in KEPT if isinstance(stored, dict) and isinstance(stored.get(name), int)}
        model._configure({**arguments, **own, **kept, **kwargs})
        model.num_timesteps = int(facts.get("num_timesteps", 0))
        model.observation_space, model.action_space, model.n_envs = agent.observation_space, agent.action_space, 1
        model._take(agent)
        if env is not None:
            model.set_env(env, force_reset)
        return model


class PPO(Algorithm):
    """SB3's PPO, on our agent."""

    theirs = "PPO"
    log_interval = 1


class A2C(Algorithm):
    """SB3's A2C, on our agent."""

    theirs = "A2C"
    log_interval = 100


class DQN(Algorithm):
    """SB3's DQN, on our agent."""

    theirs = "DQN"
    log_interval = 100

    @property
    def exploration_rate(self) -> float:
        """The probability of a random action."""
        return float(self.agent.model.get_buffer("epsilon"))

    @exploration_rate.setter
    def exploration_rate(self, rate: float) -> None:
        self.agent.model.get_buffer("epsilon").fill_(rate)
