"""The conformance suite: right agents pass, and each of many wrong ones is found out, with the part that is wrong."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlkit.agents.a2c import A2C, A2CConfig
from rlkit.buffers.replay import ReplayBuffer
from rlkit.buffers.rollout import RolloutBuffer
from rlkit.collector import Collector
from rlkit.engine.native.q import AnalyticQEngine
from rlkit.errors import RlkitError
from rlkit.networks.heads import Categorical
from rlkit.policy import ActorCriticPolicy
from rlkit.testing import Check, Report, check_agent

Patch = pytest.MonkeyPatch
Fault = Callable[[Patch], None]


@pytest.mark.parametrize(
    "agent",
    ["ppo", "a2c", "a3c", "trpo", "reinforce", "reinforce_baseline", "dqn", "double_dqn", "sarsa", "q_learning"],
)
def test_right_agents_pass(agent: str) -> None:
    report = check_agent(agent)
    report.raise_if_failed()
    assert report.fault is None
    learns_values = agent != "reinforce"
    assert ("bootstrapping" in {check.part for check in report.checks}) == learns_values


# Each fault below is put into one function of a right agent.


def wrapped(patch: Patch, owner: Any, name: str, wrong: Callable[..., Any]) -> None:
    """Puts `wrong(original, ...)` in the place of a function or a method."""
    original = getattr(owner, name)
    patch.setattr(owner, name, lambda *args, **kwargs: wrong(original, *args, **kwargs))


def wrapped_batch(patch: Patch, wrong: Callable[..., Any]) -> None:
    """Puts `wrong(original, ...)` in the place of what turns a rollout into a batch."""
    for module in ("rlkit.agents.a2c", "rlkit.agents.ppo"):
        wrapped(patch, importlib.import_module(module), "policy_batch", wrong)


def gae_with(change: Callable[..., tuple[Any, ...]]) -> Fault:
    """Other arguments for GAE: rewards, values, next_values, terminated, truncated, gamma, gae_lambda."""
    advantages = importlib.import_module("rlkit.advantages")
    return lambda patch: wrapped(patch, advantages, "gae", lambda f, *args: f(*change(*args)))


def batch_with(change: Callable[[Any], dict[str, Any]]) -> Fault:
    """Other fields of the batch that is learned from."""

    def wrong(original: Any, *args: Any, **kwargs: Any) -> Any:
        batch, rows = original(*args, **kwargs)
        return batch._replace(**change(batch)), rows

    return lambda patch: wrapped_batch(patch, wrong)


def gradient_without(which: int) -> Fault:
    """No derivatives by the policy (0) or by the values (1)."""

    def wrong(original: Any, *args: Any) -> Any:
        parts = list(original(*args))
        parts[which] = np.zeros_like(parts[which])
        return tuple(parts)

    def fault(patch: Patch) -> None:
        for name in ("a2c_gradient", "ppo_gradient"):
            wrapped(patch, importlib.import_module("rlkit.engine.native.policy_gradient"), name, wrong)

    return fault


def added_with(buffer: type[Any], change: Callable[[Any], dict[str, Any]]) -> Fault:
    """Other fields of the transitions that are stored."""
    return lambda patch: wrapped(patch, buffer, "add", lambda f, self, step: f(self, step._replace(**change(step))))


def no_learning(patch: Patch) -> None:
    for module in ("rlkit.agents.a2c", "rlkit.agents.ppo"):
        patch.setattr(f"{module}.scheduled", lambda *args: 0.0)


def all_rows(patch: Patch) -> None:
    def wrong(original: Any, *args: Any, **kwargs: Any) -> Any:
        batch, _ = original(*args, **kwargs)
        return batch, np.arange(len(batch.returns))

    wrapped_batch(patch, wrong)


def advantages_are_rewards(patch: Patch) -> None:
    def wrong(original: Any, buffer: Any, *args: Any, **kwargs: Any) -> Any:
        batch, rows = original(buffer, *args, **kwargs)
        return batch._replace(advantages=buffer.rewards.reshape(-1)), rows

    wrapped_batch(patch, wrong)


def acts_for_its_neighbour(patch: Patch) -> None:
    def wrong(original: Any, self: Any, obs: Any, mask: Any, explore: bool) -> Any:
        return original(self, tuple(np.roll(leaf, 1, 0) for leaf in obs), mask, explore)

    wrapped(patch, ActorCriticPolicy, "act", wrong)


def forgets_masks(patch: Patch) -> None:
    wrapped(patch, ActorCriticPolicy, "act", lambda f, self, obs, mask, explore: f(self, obs, None, explore))


def draws_from_numpys_generator(patch: Patch) -> None:
    def wrong(original: Any, self: Any, params: Any, rng: Any, *args: Any) -> Any:
        return original(self, params, np.random.default_rng(np.random.randint(2**31)), *args)

    wrapped(patch, Categorical, "sample", wrong)


def ignores_bounds(patch: Patch) -> None:
    patch.setattr("rlkit.networks.heads.Gaussian.env_action", lambda self, action: action + 10)


def state_without(key: str) -> Fault:
    def wrong(original: Any, self: Any, state: dict[str, Any]) -> None:
        kept = ActorCriticPolicy.state_dict(self)[key]
        original(self, {**state, key: kept})

    return lambda patch: wrapped(patch, ActorCriticPolicy, "load_state_dict", wrong)


def hands_out_what_it_stores(patch: Patch) -> None:
    patch.setattr("rlkit.networks.heads.Bernoulli.env_action", lambda self, action: action.reshape(-1, *self._shape))


def returns_one_array_again(patch: Patch) -> None:
    arrays: dict[Any, Any] = {}

    def wrong(original: Any, *args: Any, **kwargs: Any) -> Any:
        step = original(*args, **kwargs)
        kept = arrays.setdefault((step.env_action.shape, step.env_action.dtype), step.env_action)
        np.copyto(kept, step.env_action)
        return step._replace(env_action=kept)

    wrapped(patch, A2C, "act", wrong)


def writes_into_observations(patch: Patch) -> None:
    def wrong(original: Any, self: Any, obs: Any, **kwargs: Any) -> Any:
        step = original(self, obs, **kwargs)
        if obs[0].dtype == np.float32:  # others would be outside of their spaces, and be noticed at once
            np.negative(obs[0], out=obs[0])
        return step

    wrapped(patch, A2C, "act", wrong)


def saves_a_copy(patch: Patch) -> None:
    def wrong(original: Any, self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        self.model = deepcopy(self.model)

    wrapped(patch, ActorCriticPolicy, "__init__", wrong)


POLICY_GRADIENT_FAULTS: dict[str, tuple[Fault, str]] = {
    "truncated taken for terminated": (
        gae_with(lambda r, v, n, te, tr, *c: (r, v, n, te | tr, tr, *c)),
        "bootstrapping",
    ),
    "next value of the reset": (added_with(RolloutBuffer, lambda step: {"final_obs": {}}), "bootstrapping"),
    "next value where it terminated": (
        gae_with(lambda r, v, n, te, tr, *c: (r, v, n, np.zeros_like(te), te | tr, *c)),
        "bootstrapping",
    ),
    "next value one step early": (gae_with(lambda r, v, n, *rest: (r, v, v, *rest)), "returns"),
    "rewards one step late": (gae_with(lambda r, *rest: (np.roll(r, 1, 0), *rest)), "batching"),
    "gamma left out": (gae_with(lambda r, v, n, te, tr, g, lam: (r, v, n, te, tr, 1.0, lam)), "returns"),
    "advantages negated": (batch_with(lambda b: {"advantages": -b.advantages}), "advantage"),
    "advantages are rewards": (advantages_are_rewards, "returns"),
    "returns without values": (batch_with(lambda b: {"returns": b.advantages}), "value"),
    "features of the row before": (
        batch_with(lambda b: {"features": tuple(np.roll(part, 1, 0) for part in b.features)}),
        "batching",
    ),
    "actions of the row before": (
        batch_with(lambda b: {"action": np.roll(b.action, 1, 0)}),
        "policy gradient or batching",
    ),
    "acts on another environment's observation": (acts_for_its_neighbour, "batching"),
    "values not learned": (gradient_without(1), "value"),
    "policy not learned": (gradient_without(0), "policy gradient"),
    "learning rate zero": (no_learning, "value"),
    "resets taken for steps": (all_rows, "autoreset"),
    "masks forgotten": (forgets_masks, "masks"),
    "actions out of bounds": (ignores_bounds, "spaces"),
    "environments get what is stored": (hands_out_what_it_stores, "memory"),
    "one array for all actions": (returns_one_array_again, "memory"),
    "observations written into": (writes_into_observations, "memory"),
    "a generator that is not its own": (draws_from_numpys_generator, "determinism"),
    "optimiser not restored": (state_without("optimizer"), "state"),
    "generator not restored": (state_without("rng"), "state"),
    "weights not restored": (state_without("model"), "state"),
    "saves a copy": (saves_a_copy, "state"),
}


@pytest.mark.parametrize("name", POLICY_GRADIENT_FAULTS)
def test_faults_of_a2c_are_named(name: str, monkeypatch: Patch) -> None:
    put, parts = POLICY_GRADIENT_FAULTS[name]
    put(monkeypatch)
    monkeypatch.setattr("rlkit.testing.TIMESTEPS", 8192)
    report = check_agent("a2c", compute="native")
    assert report.fault in parts.split(" or "), str(report)
    with pytest.raises(RlkitError, match=f"^agent=a2c: {report.fault} is wrong: "):
        report.raise_if_failed()


@pytest.mark.parametrize("name", ["truncated taken for terminated", "advantages negated", "optimiser not restored"])
def test_faults_of_ppo_are_named(name: str, monkeypatch: Patch) -> None:
    put, part = POLICY_GRADIENT_FAULTS[name]
    put(monkeypatch)
    monkeypatch.setattr("rlkit.testing.TIMESTEPS", 8192)
    assert check_agent("ppo", compute="native").fault == part


def targets_with(**wrong: Any) -> Fault:
    """Other arguments for the targets, by name."""

    def targets(original: Any, rewards: Any, next_values: Any, terminated: Any, gamma: Any) -> Any:
        arguments = {"next_values": next_values, "terminated": terminated, "gamma": gamma, **wrong}
        return original(rewards, arguments["next_values"], terminated & arguments["terminated"], arguments["gamma"])

    return lambda patch: wrapped(patch, importlib.import_module("rlkit.agents.dqn"), "td_targets", targets)


def target_never_updated(patch: Patch) -> None:
    patch.setattr(AnalyticQEngine, "update_target", lambda self, tau: None)


def sampled_with(change: Callable[[Any], dict[str, Any]]) -> Fault:
    def wrong(original: Any, *args: Any) -> Any:
        batch = original(*args)
        return batch._replace(**change(batch))

    return lambda patch: wrapped(patch, ReplayBuffer, "sample", wrong)


DQN_FAULTS: dict[str, tuple[Fault, str]] = {
    "truncated taken for terminated": (
        added_with(ReplayBuffer, lambda step: {"terminated": step.terminated | step.truncated}),
        "bootstrapping",
    ),
    "next value of the reset": (added_with(ReplayBuffer, lambda step: {"final_obs": {}}), "bootstrapping"),
    "next value where it terminated": (targets_with(terminated=False), "bootstrapping"),
    "gamma left out": (targets_with(gamma=1.0), "returns"),
    "no next value": (targets_with(next_values=0.0), "returns"),
    "target network never updated": (target_never_updated, "returns"),
    "rewards of other transitions": (sampled_with(lambda b: {"reward": np.roll(b.reward, 1)}), "batching"),
    "actions of other transitions": (sampled_with(lambda b: {"action": np.roll(b.action, 1, 0)}), "action values"),
}


@pytest.mark.parametrize("name", DQN_FAULTS)
def test_faults_of_dqn_are_named(name: str, monkeypatch: Patch) -> None:
    put, part = DQN_FAULTS[name]
    put(monkeypatch)
    monkeypatch.setattr("rlkit.testing.TIMESTEPS", 8192)
    report = check_agent("dqn", compute="native")
    assert report.fault == part, str(report)


# What it is given, and what it says


@pytest.mark.parametrize(
    ("fields", "outcome"),
    [({}, "all is right"), ({"learning_rate": 1e-4}, "right, but slow"), ({"num_steps": 16, "learning_rate": 0.1}, "")],
    ids=["its defaults", "a small learning rate", "what suits probes"],
)
def test_an_agent_of_ones_own(fields: dict[str, Any], outcome: str) -> None:
    file = Path(__file__).parents[1] / "examples" / "own_agent.py"
    spec = importlib.util.spec_from_file_location("own_agent", file)
    assert spec is not None
    assert spec.loader is not None
    own = importlib.util.module_from_spec(spec)
    patch = pytest.MonkeyPatch()
    patch.setitem(importlib.import_module("sys").modules, "own_agent", own)  # dataclasses look it up
    try:
        spec.loader.exec_module(own)
        report = check_agent(own.Linear, own.LinearConfig(**fields))
    finally:
        patch.undo()
    report.raise_if_failed()
    assert outcome in str(report)
    assert "save and load" in {check.name for check in report.checks}  # by the path of its class


def test_a_class_of_ones_own_that_raises_is_a_finding() -> None:
    @dataclass
    class OwnConfig(A2CConfig):
        pass

    class Broken(A2C):
        def update(self, buffer: Any, progress: float) -> dict[str, float]:
            raise KeyError("advantages")

    report = check_agent(Broken, OwnConfig())
    assert "KeyError: 'advantages'" in report.failed[0].detail


def test_a_config_is_taken_as_it_is_but_for_gamma(monkeypatch: Patch) -> None:
    seen = []

    def spy(original: Any, self: Any, agent: Any, *args: Any) -> Any:
        seen.append(agent.config)
        return original(self, agent, *args)

    wrapped(monkeypatch, Collector, "collect", spy)
    config = A2CConfig(num_steps=4, learning_rate=5e-3, gamma=0.99)
    check_agent(config)
    assert seen
    assert all(one == replace(config, gamma=0.9) for one in seen)
    assert config.gamma == 0.99


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(RlkitError, match="unknown agent 'pppo'; did you mean 'ppo'?"):
        check_agent("pppo")


def test_a_report_is_a_table() -> None:
    report = Report("mine", [Check("value", "a constant reward", True), Check("returns", "later", False, "V(0) = 0")])
    assert str(report).splitlines() == [
        "mine: returns is wrong",
        "ok     value    a constant reward  ",
        "WRONG  returns  later              V(0) = 0",
    ]
