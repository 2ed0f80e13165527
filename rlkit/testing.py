"""A conformance suite for agents, ours and yours: it trains an agent on tiny environments and names the faulty part.

Read it from top to bottom: the report, the environments, `check_agent`, and the checks in their order. Each check
presumes what the checks before it have shown, so the first one that fails points to the fault.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from rlkit import checkpoint
from rlkit.agents.base import Agent
from rlkit.collector import Collector
from rlkit.envs import EnvFactory
from rlkit.envs.check import ENDLESS_STEPS
from rlkit.envs.check import check_env as look_over
from rlkit.envs.probes import (
    Probe,
    ProbeAction,
    ProbeActionMatters,
    ProbeActionObs,
    ProbeConstantReward,
    ProbeObsValue,
    ProbeTwoStepCredit,
)
from rlkit.errors import RlkitError
from rlkit.registry import find_agent, make_agent
from rlkit.setting import NetworkConfig, Setting
from rlkit.spaces import Array, leaves
from rlkit.system.dotted_paths import dotted_path

GAMMA = 0.9
"""Discount of all trainings; far enough from 1 to show in values."""
NUM_ENVS = 8
"""Number of environments in each training."""
TIMESTEPS = 16_384
"""Budget of each training, which ends early once the answer is right and stays right."""
LOOKS = 64
"""Number of times within a budget that the agent's answers are compared with the right ones."""
EXTENSIONS = 2
"""Number of times that the budget grows fourfold while the agent's answers come nearer to the right ones."""
NEARER = 0.01
"""Least approach between the halves of a budget that counts: chance moves frequencies of 2000 actions by less."""
FEW_LOOKS = 3
"""Numbers of looks, of an agent with few and large updates, that say nothing about a trend."""
STILL = 0.03
"""Largest change of a distance that chance alone makes."""
LITTLE = 0.1
"""Largest change of a parameter that counts as little; a layer's weights are of the order of 1."""
LAST_SEED = 2
"""Last of the seeds 0, 1, … whose agents all have to move towards the right answers to pass by that alone."""
REACHES = (10.0, 100.0, 1000.0)
"""Multiples of what an agent has learned, at which its answers are looked at where they have not moved yet."""


@dataclass
class Check:
    """One check of an agent, and its outcome."""

    part: str
    """The part of the agent that is at fault if the check failed."""
    name: str
    """The ability that was checked."""
    passed: bool
    """True if the agent has it."""
    detail: str = ""
    """The agent's wrong answer, or the error that it raised."""
    slow: bool = False
    """True if the agent has not got there, but is on its way: it passes, and the detail says how far it came."""


@dataclass
class Report:
    """All checks of an agent, from its simplest part on; `print` shows it as a table."""

    agent: str
    checks: list[Check] = field(default_factory=list)

    @property
    def failed(self) -> list[Check]:
        """The checks that failed."""
        return [check for check in self.checks if not check.passed]

    @property
    def fault(self) -> str | None:
        """The part to look at first: the first failed check's, since other failures may follow from it."""
        return self.failed[0].part if self.failed else None

    def raise_if_failed(self) -> None:
        """Raises an RlkitError that names the part at fault, unless every check passed."""
        if self.failed:
            first = self.failed[0]
            raise RlkitError(f"agent={self.agent}: {first.part} is wrong: {first.name}: {first.detail}")

    def __str__(self) -> str:
        rows = [("slow" if c.slow else "ok" if c.passed else "WRONG", c.part, c.name, c.detail) for c in self.checks]
        widths = [max((len(row[i]) for row in rows), default=0) for i in range(3)]
        lines = ["  ".join((*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[3])) for row in rows]
        right = "right, but slow" if any(check.slow for check in self.checks) else "all is right"
        return "\n".join([f"{self.agent}: {self.fault + ' is wrong' if self.fault else right}", *lines])


class TimeLimit(Probe):
    """A probe of one step: from +1, reward 1 and termination; from -1, reward -0.5 and a time limit in state +1.

    Known answer: V(+1) = 1 and V(-1) = -0.5 + gamma.
    """

    numbers = (-1.0, -1.0, -1.0, 1.0)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Ends the episode: by termination after +1, by truncation after -1."""
        before, self.number = self.number, 1.0
        return self._obs(), (1.0 if before > 0 else -0.5), before > 0, before < 0, {}


class DelayedReward(ProbeActionMatters):
    """A probe of two steps, observing 0 and then 1: the first step's action, 1 or 0, earns 1 or -1 in the second."""

    credit = 0.0
    """Reward that the first step has earned."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Shows the second observation, then pays the reward and terminates."""
        if self.number == 1:
            return self._obs(), self.credit, True, False, {}
        self.number, self.credit = 1.0, self._reward(action)
        return self._obs(), 0.0, False, False, {}


def check_agent(agent: Any, *config: Any, compute: str = "auto") -> Report:
    """Trains an agent on probe environments, and reports its mistakes.

    `agent` is the name of an agent, which gets hyperparameters that suit the probes; or a config; or a class of your
    own, followed by its config. A config is used as it is, except for `gamma`. An agent that is slow with it gets up to
    sixteen times the 16,384 steps while it comes nearer to the right answers; one that is still on its way then passes
    as slow.
    """
    if isinstance(agent, type):
        return _Suite(agent, *config, compute=compute).run()
    if isinstance(agent, str):
        variant = find_agent(agent)
        return _Suite(variant.agent, variant.make(**variant.config.for_probes), compute=compute).run()
    return _Suite(make_agent, agent, compute=compute).run()


def _never(agent: Any) -> float:
    return 1.0


class _Suite:
    """All checks of one agent, in their order."""

    def __init__(self, make: Callable[[Any, Setting], Agent[Any]], config: Any, *, compute: str) -> None:
        self.config = replace(config, gamma=GAMMA) if hasattr(config, "gamma") else config
        self.config.validate(NUM_ENVS)
        self._make, self._compute = make, compute
        self.report = Report(config.name)
        self.discrete_obs = False
        """True if the agent refuses vectors; probes then show their number -1, 0 or 1 as the Discrete 0, 1 or 2."""

    def run(self) -> Report:
        self._spaces()
        self.ask("memory", "actions stay as they were given", self._memory)
        self._values()
        self._policies()
        self._repeatability()
        return self.report

    def agent(self, envs: Any, seed: int = 0) -> Any:
        spaces = envs.single_observation_space, envs.single_action_space
        network = NetworkConfig(hidden_sizes=[32, 32])
        return self._make(self.config, Setting(*spaces, network, NUM_ENVS, seed, compute=self._compute))

    def envs(self, probe: Callable[[], gym.Env[Any, Any]], mode: AutoresetMode = AutoresetMode.SAME_STEP) -> Any:
        def make() -> gym.Env[Any, Any]:
            env = probe()
            if not self.discrete_obs or not isinstance(env.observation_space, spaces.Box):
                return env
            return gym.wrappers.TransformObservation(env, lambda obs: int(obs[0]) + 1, spaces.Discrete(3))

        return SyncVectorEnv([make] * NUM_ENVS, autoreset_mode=mode)

    def obs(self, *numbers: float) -> Array:
        return np.array(numbers, int) + 1 if self.discrete_obs else np.array(numbers, np.float32)[:, None]

    def trained(
        self,
        envs: Any,
        distance: Callable[[Any], float],
        timesteps: int | None = None,
        seed: int = 0,
    ) -> tuple[Any, str]:
        """Trains an agent until it is right twice in a row or the budget is spent; returns it, and the outcome.

        `distance` says how far the agent's answers are from the right ones; 0 is right. Without `timesteps`, the budget
        grows while they come nearer. The outcome is `right`, `slow` or `wrong`.
        """
        agent = self.agent(envs, seed)
        first = deepcopy(agent.model.state_dict())
        collector, buffer = Collector(envs, list(range(NUM_ENVS))), agent.make_buffer(NUM_ENVS)
        budgets = [TIMESTEPS * 4**i for i in range(EXTENSIONS + 1)] if timesteps is None else [timesteps]
        before = distance(agent)
        for budget in budgets:
            if collector.timesteps >= budget:  # one update took more steps
                continue
            looks, found = 0, list[float]()
            while collector.timesteps < budget:
                collector.collect(agent, buffer, agent.steps_per_update)
                agent.update(buffer, min(1.0, collector.timesteps / budget))
                if collector.timesteps * LOOKS >= looks * budget:
                    looks = collector.timesteps * LOOKS // budget + 1
                    found.append(distance(agent))
                    if found[-2:] == [0, 0]:
                        return agent, "right"
            if len(found) > FEW_LOOKS and _comes_nearer(found):
                continue
            still = abs(found[-1] - before) <= STILL
            if timesteps is None and still and self._heads_there(agent, first, distance):
                another = "slow" if seed == LAST_SEED else self.trained(envs, distance, seed=seed + 1)[1]
                return agent, "wrong" if another == "wrong" else "slow"  # a wrong direction is right by chance only
            if len(found) > FEW_LOOKS:
                return agent, "wrong"
        return agent, "slow" if len(found) > FEW_LOOKS and _comes_nearer(found) else "wrong"

    def _heads_there(self, agent: Any, first: dict[str, Any], distance: Callable[[Any], float]) -> bool:
        """Returns True if the parameters have moved a little, and moving on in that direction leads to right answers.

        That looks at the gradient itself, of an agent whose answers do not show it yet; `first` are the parameters
        that it began with.
        """
        before, last = distance(agent), deepcopy(agent.model.state_dict())
        moves = {name: tensor - first[name] for name, tensor in last.items() if tensor.is_floating_point()}
        if max((float(move.abs().max()) for move in moves.values() if move.numel()), default=0.0) > LITTLE:
            return False
        try:
            for reach in REACHES:
                agent.model.load_state_dict({**last, **{name: first[name] + reach * moves[name] for name in moves}})
                if distance(agent) < before / 2:
                    return True
        finally:
            agent.model.load_state_dict(last)
        return False

    def ask(self, part: str, name: str, question: Callable[[], str | tuple[str, str]]) -> None:
        """Adds a check to the report.

        `question` returns "" if all is right, else the mistake, or the mistake and the part at fault, which replaces
        `part`; it raises _Slow where the agent is on its way.
        """
        try:
            answer = question()
        except _Slow as slow:
            self.report.checks.append(Check(part, name, True, str(slow), slow=True))
            return
        except Exception as error:  # whatever a user's agent raises is a result of the check
            answer = f"{type(error).__name__}: {error}"
        detail, part = answer if isinstance(answer, tuple) else (answer, part)
        self.report.checks.append(Check(part, name, not detail, " ".join(detail.split())))

    def _spaces(self) -> None:
        try:
            self.agent(self.envs(ProbeConstantReward))
        except RlkitError:
            self.discrete_obs = True
        for kind in ProbeActionObs.KINDS:
            self.ask("spaces", f"{kind} observations", lambda kind=kind: self._space(lambda: ProbeActionObs(kind)))  # type: ignore[misc]
        for kind in ProbeAction.KINDS:
            self.ask("spaces", f"{kind} actions", lambda kind=kind: self._space(lambda: ProbeAction(kind)))  # type: ignore[misc]

    def _space(self, probe: Callable[[], gym.Env[Any, Any]]) -> str:
        envs = self.envs(probe)
        try:
            self.agent(envs)
        except RlkitError:  # an agent need not take every space, if it says so
            return ""
        self.trained(envs, _never, timesteps=2 * NUM_ENVS)  # raises for actions outside the space
        return ""

    def _memory(self) -> str:
        """Checks that nothing that is stored changes when the environment, or the agent later, writes into its own."""
        for kind in ProbeAction.KINDS:
            envs = self.envs(lambda kind=kind: ProbeAction(kind))  # type: ignore[misc]
            try:
                agent = self.agent(envs)
            except RlkitError:  # an agent need not take every space
                continue
            # Ones, because zeros would hide a factor.
            obs = tuple(np.ones_like(leaf) for leaf in leaves(envs.single_observation_space, envs.reset(seed=0)[0]))
            seen = deepcopy(obs)
            step = agent.act(obs)
            if not all(map(np.array_equal, obs, seen)):
                return "act writes into the observations that it is given: expected a copy"
            kept = deepcopy(step)
            agent.act(obs)
            if not all(map(np.array_equal, step, kept)):
                return "act writes into the actions that it returned before: expected new arrays each time"
            if step.env_action.flags.writeable:
                step.env_action[...] = step.env_action == 0  # as an environment may that clears what it has used
            if not np.array_equal(step.action, kept.action):
                return (
                    f"env_action shares the memory of action for {envs.single_action_space}, so that an environment "
                    "that writes into its action changes what is learned: expected a copy"
                )
        return ""

    def _values(self) -> None:
        def ask(part: str, name: str, probe: type[Probe], right: dict[float, float], *mode: AutoresetMode) -> None:
            self.ask(part, name, lambda: self._value(self.envs(probe, *mode), right))

        agent = self.agent(self.envs(ProbeConstantReward))
        try:
            if not hasattr(agent, "value"):
                return
            agent.value(self.obs(0))
        except RlkitError:  # the agent, as it is configured, learns no values
            return
        ask("value", "a constant reward", ProbeConstantReward, {0: 1})
        ask("batching", "values by observation", ProbeObsValue, {-1: -1, 1: 1})
        ask("returns", "a reward one step later", ProbeTwoStepCredit, {0: GAMMA, 1: 1})
        for mode in (AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED):
            part = "bootstrapping" if mode == AutoresetMode.SAME_STEP else "autoreset"
            ask(part, f"a time limit, {mode.name}", TimeLimit, {-1: GAMMA - 0.5, 1: 1}, mode)

    def _value(self, envs: Any, right: dict[float, float]) -> str | tuple[str, str]:
        def found(agent: Any) -> Array:
            return np.asarray(agent.value(self.obs(*right)))

        expected = np.array(list(right.values()))

        def distance(agent: Any) -> float:
            errors = np.abs(found(agent) - expected)
            return float(errors.max()) if not np.allclose(errors, 0, atol=0.05 + 1e-5) else 0.0

        agent, outcome = self.trained(envs, distance)
        if outcome == "right":
            return ""
        values = found(agent)
        listing = zip(right.items(), values, strict=True)
        detail = "; ".join(f"V({number:g}) = {value:.2f}, not {v:.2f}" for (number, v), value in listing)
        if outcome == "slow":
            raise _Slow(f"on its way: {detail}")
        # No episode earns more than 1. So a larger value was bootstrapped across an episode's end.
        return (detail, "bootstrapping") if values.max() > 1.5 and len(right) == 1 else detail

    def _policies(self) -> None:
        masked = EnvFactory("rlkit/ProbeMaskedAction-v0")  # it raises if a forbidden action is taken
        learns_q = hasattr(self.agent(self.envs(ProbeActionMatters)), "q_values")
        self.ask(
            "action values" if learns_q else "policy gradient",
            "the better action",
            lambda: self._policy(ProbeActionMatters, {0: 1}),
        )
        self.ask("batching", "actions by observation", lambda: self._policy(ProbeActionObs, {-1: 0, 1: 1}))
        self.ask("returns", "an action's reward one step later", lambda: self._policy(DelayedReward, {0: 1}))
        self.ask("masks", "an action that is forbidden", lambda: self._policy(masked, {-1: 2}))

    def _policy(self, probe: Callable[[], gym.Env[Any, Any]], right: dict[float, int]) -> str | tuple[str, str]:
        """Checks that the policy takes the right actions; if it avoids them, the advantages have the wrong sign."""
        rows = np.tile(list(right), 2000)  # neighbouring rows differ, so that mixing rows up shows

        def frequencies(agent: Any) -> Array:
            taken = np.asarray(agent.predict(self.obs(*rows), deterministic=False)[0]).reshape(-1, len(right))
            hits: Array = np.mean(taken == np.array(list(right.values())), axis=0)
            return hits

        def value_error(agent: Any) -> float:
            if probe is not ProbeActionMatters or not hasattr(agent, "q_values"):
                return 0.0
            return max(0.0, float(np.abs(agent.q_values(self.obs(0)) - [[-1, 1]]).max()) - 0.2)

        def distance(agent: Any) -> float:
            return max(0.0, 0.85 - float(frequencies(agent).min())) + value_error(agent)

        agent, outcome = self.trained(self.envs(probe), distance)
        if outcome == "right":
            return ""
        found = frequencies(agent)
        listing = zip(right.items(), found, strict=True)
        detail = (
            "" if not value_error(agent) else f"Q(0) = {agent.q_values(self.obs(0)).round(2).tolist()}, not -1, 1; "
        )
        detail += "; ".join(f"takes {action} at {number:g} in {often:.0%}" for (number, action), often in listing)
        if outcome == "slow":
            raise _Slow(f"on its way: {detail}")
        avoids = probe is ProbeActionMatters and found.min() < 0.15 and not hasattr(agent, "q_values")
        return (detail, "advantage") if avoids else detail

    def _repeatability(self) -> None:
        self.ask("determinism", "one seed, identical parameters", self._determinism)
        self.ask("state", "goes on from its state_dict", self._state)
        if self._can_be_named():
            self.ask("state", "save and load", self._save_and_load)

    def _can_be_named(self) -> bool:
        """True unless the class is inside a function or in the script that runs, where no saved agent could name it."""
        if isinstance(self._make, type):
            try:
                dotted_path("agent", self._make)
            except RlkitError:
                return False
        return True

    def _short(self, seed: int = 0, look: Callable[[Any], float] = _never) -> Any:
        return self.trained(self.envs(ProbeActionObs), look, TIMESTEPS // 16, seed)[0]

    def _determinism(self) -> str:
        import torch

        runs = []
        for run, seed in enumerate((0, 0, 1)):

            def stirred(agent: Any, run: int = run) -> float:
                """Global generators must not matter; collectors seed them, so they are stirred after that."""
                random.seed(run), np.random.seed(run), torch.manual_seed(run)
                return _never(agent)

            runs.append(_parameters(self._short(seed, stirred)))
        if _different(runs[0], runs[1]):
            return "two runs with one seed differ: the agent draws from a generator that is not its own"
        return "" if _different(runs[0], runs[2]) else "another seed changes nothing"

    def _state(self) -> str:
        agent, envs = self._short(), self.envs(ProbeActionObs)
        other = self.agent(envs, seed=99)
        other.load_state_dict(deepcopy(agent.state_dict()))
        before, steps = _parameters(agent), 1024
        for one in (agent, other):
            collector, buffer = Collector(envs, list(range(NUM_ENVS))), one.make_buffer(NUM_ENVS)
            while collector.timesteps < steps:
                collector.collect(one, buffer, one.steps_per_update)
                one.update(buffer, 0.5)
                if one is agent and not _different(before, _parameters(agent)):
                    steps = min(collector.timesteps + 1, TIMESTEPS)  # some agents collect experience first
        if not _different(before, _parameters(agent)):
            return "updates change nothing"
        if _different(_parameters(agent), _parameters(other)):
            return "an agent that took over the state of another goes on in another way"
        return ""

    def _save_and_load(self) -> str:
        agent = self._short()
        with tempfile.TemporaryDirectory() as folder:
            loaded = checkpoint.load(checkpoint.save(agent, folder))
        if _different(_parameters(agent), _parameters(loaded)):
            return "a loaded agent has other parameters"
        obs = self.obs(-1, 1)
        return "" if np.array_equal(agent.predict(obs)[0], loaded.predict(obs)[0]) else "a loaded agent acts otherwise"


class _Slow(Exception):
    """An answer that is not right yet, of an agent that is on its way to it."""


def _comes_nearer(distances: list[float]) -> bool:
    """Returns True if the later half of the distances is smaller than the earlier one, by more than chance."""
    half = len(distances) // 2
    return float(np.mean(distances[:half]) - np.mean(distances[half:])) > NEARER


def _parameters(agent: Any) -> list[Array]:
    return [tensor.detach().cpu().numpy().copy() for tensor in agent.model.state_dict().values()]


def _different(first: list[Array], second: list[Array]) -> bool:
    return any(not np.array_equal(one, other) for one, other in zip(first, second, strict=True))


def check_env(env: str | gym.Env[Any, Any], steps: int = ENDLESS_STEPS, **kwargs: Any) -> list[str]:
    """Looks over an environment of yours for `steps` random steps, and returns notes on what is unwise in it.

    `env` is an id, made with `kwargs`, or an environment. Raises RlkitError like `rlkit.envs.check.check_env`, which
    training calls for a few steps.
    """
    if not isinstance(env, str):
        return look_over(env, env.spec.id if env.spec else type(env.unwrapped).__name__, steps)
    made = EnvFactory(env, kwargs)()
    try:
        return look_over(made, env, steps)
    finally:
        made.close()
