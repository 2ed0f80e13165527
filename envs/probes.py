"""Probe environments, which are so small that the right answer is known exactly; each tests one part of an agent.

All are registered as `rlkit/Probe…-v0`, and training on one takes seconds. They are in the order of their difficulty:
if an agent gets a probe wrong and all simpler ones right, its fault is in the part that this probe names.
"""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces

SIGNS = (-1.0, 1.0)


class Probe(gym.Env[Any, Any]):
    """The base class of the probes: one step, with an observation of a number that reset draws from `numbers`."""

    observation_space: spaces.Space[Any] = spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space: spaces.Space[Any] = spaces.Discrete(2)
    numbers: tuple[float, ...] = (0.0,)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Draws the number that the observation shows."""
        super().reset(seed=seed)
        self.number = float(self.np_random.choice(self.numbers))
        return self._obs(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Ends the episode with an unchanged observation; raises ValueError for an action outside the action space."""
        if not self.action_space.contains(action):
            raise ValueError(f"action {action!r} is not in {self.action_space}")
        return self._obs(), self._reward(action), True, False, {}

    def _obs(self) -> Any:
        return np.array([self.number], dtype=np.float32)

    def _reward(self, action: Any) -> float:
        return 1.0


class ProbeConstantReward(Probe):
    """A probe of the value loss: one step, observation 0, and reward 1 for every action.

    Known answer: V(0) = 1 for every gamma. If not: the value loss, or its optimiser.
    """


class ProbeObsValue(Probe):
    """A probe of the value network's input: one step, observation -1 or +1, which is also the reward of every action.

    Known answer: V(-1) = -1, V(+1) = 1. If not: observations do not reach the value network.
    """

    numbers = SIGNS

    def _reward(self, action: Any) -> float:
        return self.number


class ProbeTwoStepCredit(Probe):
    """A probe of discounting: two steps, with observations 0 and 1 and rewards 0 and 1 for all actions.

    Known answer: V(0) = gamma, V(1) = 1. If not: discounting, or the order of steps in the returns.
    """

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Shows the second observation, and then ends the episode."""
        reward, self.number = self.number, 1.0
        return self._obs(), reward, reward == 1, False, {}


class ProbeTruncation(Probe):
    """A probe of truncation: observation 0 and reward 1 in every step of an episode that is truncated after 10.

    It never terminates; the registration sets the limit. Known answer: V(0) = 1 / (1 - gamma), which is 10 at
    gamma = 0.9. If not: 5.263 comes from a truncation that is treated as an end, 9.091 from a reset that is taken for
    a step.
    """

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Gives a reward of 1 and leaves everything as it is."""
        return self._obs(), 1.0, False, False, {}


class ProbeActionMatters(Probe):
    """A probe of the policy loss: one step, observation 0, and a reward of 1 for action 1 and -1 for action 0.

    Known answer: Q(0, ·) = (-1, 1); a trained policy takes action 1 with probability > 0.9, and the best one's V(0)
    is 1. If not: the policy loss, or the sign of the advantages.
    """

    def _reward(self, action: Any) -> float:
        return 1.0 if action == 1 else -1.0


class ProbeActionObs(Probe):
    """A probe of observations: one step, with a reward of 1 if the action is the number that they show, else -1.

    `kind` is the kind of observation. It shows 0 or 1, or if it has two parts 0 to 3, with one bit in each part.

    Known answer: Q = 1 for the right action and -1 for all others; a trained policy takes the right one with
    probability > 0.9, and the best one's V is 1. If not: the encoder of that kind of observation, or the pairing of
    observations and actions.
    """

    KINDS: ClassVar[dict[str, spaces.Space[Any]]] = {
        "box": spaces.Box(-1.0, 1.0, (1,), np.float32),
        "discrete": spaces.Discrete(2, start=3),
        "multi_discrete": spaces.MultiDiscrete([2, 2]),
        "multi_binary": spaces.MultiBinary(2),
        "dict": spaces.Dict(
            {"low": spaces.Box(-1.0, 1.0, (1,), np.float32), "more": spaces.Dict(high=spaces.Discrete(2))}
        ),
        "tuple": spaces.Tuple((spaces.Box(-1.0, 1.0, (1,), np.float32), spaces.Tuple((spaces.Discrete(2),)))),
        "image": spaces.Box(0, 255, (36, 36, 3), np.uint8),
        "image_channel_first": spaces.Box(0, 255, (3, 36, 36), np.uint8),
    }
    """Observation spaces by kind."""

    def __init__(self, kind: str = "box") -> None:
        size = 4 if kind in ("multi_discrete", "multi_binary", "dict", "tuple") else 2
        self.kind = kind
        self.numbers = tuple(range(size))
        self.observation_space = self.KINDS[kind]
        self.action_space = spaces.Discrete(size)

    def _obs(self) -> Any:
        high, low = divmod(int(self.number), 2)
        sign = np.array([SIGNS[low]], dtype=np.float32)
        match self.kind:
            case "box":
                return sign
            case "discrete":
                return 3 + low
            case "multi_discrete" | "multi_binary":
                return np.array([high, low], dtype=self.observation_space.dtype)
            case "dict":
                return {"low": sign, "more": {"high": high}}
            case "tuple":
                return sign, (high,)
        image = np.zeros((36, 36, 3), dtype=np.uint8)
        image[:, 18 * low : 18 * low + 18] = 255  # the left half is bright for 0, the right half for 1
        return image if self.kind == "image" else image.transpose(2, 0, 1)

    def _reward(self, action: Any) -> float:
        return 1.0 if action == self.number else -1.0


class ProbeAction(Probe):
    """A probe of actions: one step, observation -1 or +1, and for each a right action, in a space of the kind `kind`.

    | kind | right at -1 | right at +1 | reward |
    |---|---|---|---|
    | box, (2,) from -1 to 3 | (0.5, 1.5) | (1.5, 0.5) | minus the mean squared distance from it |
    | multi_discrete, [2, 3] | (0, 2) | (1, 0) | the share of right parts |
    | multi_binary, 3 | (0, 1, 1) | (1, 0, 1) | the share of right parts |

    Known answer for box: a trained policy's mean is within 0.2 of the right action, and the best one's V is 0. For the
    others: it takes each right part with probability > 0.9, and the best one's V is 1. If not: the distribution over
    that kind of action, or the way from the network to the environment.
    """

    KINDS: ClassVar[dict[str, spaces.Space[Any]]] = {
        "box": spaces.Box(-1.0, 3.0, (2,), np.float32),
        "multi_discrete": spaces.MultiDiscrete([2, 3]),
        "multi_binary": spaces.MultiBinary(3),
    }
    """Action spaces by kind."""
    RIGHT: ClassVar[dict[str, dict[float, tuple[float, ...]]]] = {
        "box": {-1.0: (0.5, 1.5), 1.0: (1.5, 0.5)},
        "multi_discrete": {-1.0: (0, 2), 1.0: (1, 0)},
        "multi_binary": {-1.0: (0, 1, 1), 1.0: (1, 0, 1)},
    }
    """Right actions by kind and observation."""

    numbers = SIGNS

    def __init__(self, kind: str = "box") -> None:
        self.kind = kind
        self.action_space = self.KINDS[kind]

    def _reward(self, action: Any) -> float:
        distance = np.asarray(action, dtype=np.float64) - self.RIGHT[self.kind][self.number]
        return float(-np.mean(distance**2) if self.kind == "box" else np.mean(distance == 0))


class ProbeMaskedAction(Probe):
    """A probe of action masks: one step, observation -1 or +1, and the action, 0, 1 or 2, is also the reward.

    At +1, the action 2 is not allowed, and taking it raises ValueError. Known answer: a trained policy takes 2 at -1
    and 1 at +1 with probability > 0.9, and its probability of 2 at +1 is exactly 0; the best one has V(-1) = 2 and
    V(+1) = 1. If not: masks, or their pairing with observations.
    """

    action_space = spaces.Discrete(3)
    numbers = SIGNS

    def action_masks(self) -> np.ndarray[Any, Any]:
        """Returns a mask, (3,), that is True for the actions that are allowed now."""
        return np.array([True, True, self.number < 0])

    def _reward(self, action: Any) -> float:
        if not self.action_masks()[action]:
            raise ValueError(f"action {action} is not allowed at observation {self.number:+g}")
        return float(action)


def register_probes() -> None:
    """Registers every probe as `rlkit/<name>-v0`, where the name is that of its class.

    For probes of several kinds the name contains the kind, as in `rlkit/ProbeDictObs-v0` and
    `rlkit/ProbeBoxAction-v0`.
    """
    for probe in (ProbeConstantReward, ProbeObsValue, ProbeTwoStepCredit, ProbeActionMatters, ProbeMaskedAction):
        _register(probe.__name__, probe)
    _register("ProbeTruncation", ProbeTruncation, max_episode_steps=10)
    for kind in ProbeActionObs.KINDS:
        name = "ProbeActionObs" if kind == "box" else f"Probe{_camel(kind)}Obs"
        _register(name, ProbeActionObs, kwargs={"kind": kind})
    for kind in ProbeAction.KINDS:
        _register(f"Probe{_camel(kind)}Action", ProbeAction, kwargs={"kind": kind})


def _register(name: str, probe: type[Probe], **options: Any) -> None:
    gym.register(f"rlkit/{name}-v0", f"{__name__}:{probe.__name__}", **options)


def _camel(kind: str) -> str:
    return kind.title().replace("_", "")
