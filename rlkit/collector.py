"""The collector: steps the vector environment, fills a buffer with experience, and counts episodes."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from rlkit.action_masks import KEY, fitted_masks, masks_in
from rlkit.buffers.transition import Buffer, Transition
from rlkit.envs.lifetime import seed_spaces
from rlkit.envs.state import read_envs, write_envs
from rlkit.errors import Misfit, RlkitError, one_line, shown, told
from rlkit.spaces import Array, Obs, check_computable, count_true, fitted, leaf_spaces, leaves
from rlkit.system.seeding import read_generators, seed_globally, write_generators
from rlkit.system.subnormals import flushed


class Step(NamedTuple):
    """The result of acting, batched over environments."""

    action: Array
    """The chosen actions, as the agent learns from them: (num_envs, *action shape)."""
    env_action: Array
    """The actions for the environment: clipped or squashed to the bounds, and shifted to the space's start."""


class Acting(Protocol):
    """The one method of an agent that a collector calls."""

    def act(self, obs: Obs, *, action_mask: Array | None = None, explore: bool = True) -> Step:
        """Chooses one action per row of `obs`; without `explore`, the policy's most likely action.

        `action_mask` is boolean, True where an action is allowed: (batch, number of actions).
        """


class Episode(NamedTuple):
    """A finished episode."""

    episode_return: float
    """Undiscounted sum of the rewards."""
    length: int
    """Number of steps."""


class Collector:
    """Steps environments with an agent; each `collect` goes on with the episodes that the last one left open.

    It handles all of Gymnasium's autoreset modes. The reset of an environment is never stored as experience, nor
    counted as a timestep, and an episode's own last observation is kept beside the next episode's first one. `seeds`
    has one seed per environment; the first one is also that of the process's global generators, from which some
    environments draw.
    """

    def __init__(self, envs: VectorEnv[Any, Any, Any], seeds: list[int], name: str = "the environment") -> None:
        self.envs = envs
        self.num_envs = envs.num_envs
        self._batch = (self.num_envs,)
        self.name = name
        self.timesteps = 0
        self._mode = envs.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP)
        self._space, self._actions = envs.single_observation_space, envs.single_action_space
        self._mask: Array | None = None
        self._vector_steps = 0
        self._began = np.zeros(self.num_envs, np.int64)
        """The number of vector steps before each environment's episode; its reset is none of its steps."""
        self._returns = np.zeros(self.num_envs)
        self._all_valid = self._valid = np.ones(self.num_envs, np.bool_)
        # A native vector environment has one generator for all its parts, so it takes one seed, not a list.
        native = not hasattr(envs, "env_fns")
        seed_globally(seeds[0])
        seed_spaces(envs, seeds[0])
        try:
            obs, info = self._call("reset", seed=seeds[0] if native else seeds)
            self._obs = self._checked(obs)
            self._mask = self._masks(masks_in(info, self.num_envs))
        except Misfit as misfit:
            raise self._told(misfit) from misfit
        read_envs(envs)  # by which large tables are known that need not be stored, as new environments have them

    def collect(self, agent: Acting, buffer: Buffer, num_steps: int) -> list[Episode]:
        """Lets `agent` act for `num_steps` vector steps, adds them to `buffer`, and returns the episodes that ended.

        Raises RlkitError if the environment raises, or returns what does not fit its spaces or is no finite number.
        """
        episodes: list[Episode] = []
        try:
            with flushed():
                for _ in range(num_steps):
                    self._step(agent, buffer, episodes)
        except Misfit as misfit:
            raise self._told(misfit) from misfit
        return episodes

    def state_dict(self) -> dict[str, Any]:
        """Returns the state of the environments, the open episodes, and the process's global generators."""
        return {
            "vectorization": getattr(self.envs, "vectorization", None),
            "envs": read_envs(self.envs),
            "generators": read_generators(),
            "obs": [leaf.copy() for leaf in self._obs],
            "mask": None if self._mask is None else self._mask.copy(),
            "returns": self._returns.copy(),
            "vector_steps": self._vector_steps,
            "began": self._began.copy(),
            "valid": self._valid.copy(),
            "timesteps": self.timesteps,
        }

    def load_state_dict(self, state: dict[str, Any]) -> dict[int, str]:
        """Restores what `state_dict` returned; returns reasons for the environments whose episodes could not go on.

        Those have begun new episodes.
        """
        last_obs = tuple(state["obs"])
        reasons = write_envs(self.envs, state["envs"], last_obs)
        failed = {env: reason for env, reason in enumerate(reasons) if reason is not None}
        self._obs, self._mask = tuple(leaf.copy() for leaf in last_obs), state["mask"]
        self._returns, self._began = state["returns"].copy(), state["began"].copy()
        self._vector_steps, self.timesteps = int(state["vector_steps"]), int(state["timesteps"])
        self._valid = state["valid"].copy()
        write_generators(state["generators"])
        if failed:
            self._begin_anew(list(failed))
        return failed

    def _begin_anew(self, envs: list[int]) -> None:
        """Begins new episodes in some of the environments, or in all of them."""
        chosen = np.isin(np.arange(self.num_envs), envs)
        try:
            obs, info = self._call("reset", options=None if chosen.all() else {"reset_mask": chosen})
            for leaf, fresh in zip(self._obs, self._checked(obs), strict=True):
                leaf[chosen] = fresh[chosen]
            fresh_mask = self._masks(masks_in(info, self.num_envs))
        except Misfit as misfit:
            raise self._told(misfit) from misfit
        if fresh_mask is not None:
            self._mask = fresh_mask if self._mask is None else np.where(chosen[:, None], fresh_mask, self._mask)
        self._returns[chosen], self._began[chosen] = 0, self._vector_steps
        self._valid[chosen] = True

    def _step(self, agent: Acting, buffer: Buffer, episodes: list[Episode]) -> None:
        step = agent.act(self._obs, action_mask=self._mask)
        # A copy, because an environment may write into its action, and agents keep theirs.
        next_obs, reward, terminated, truncated, info = self._call("step", step.env_action.copy())
        self._check_outcome(reward, terminated, truncated)
        masks = masks_in(info, self.num_envs) if KEY in info else []
        done = terminated | truncated
        final_obs: dict[int, Obs] = {}
        if any_done := count_true(done) > 0:
            next_obs, masks, final_obs = self._after_done(next_obs, info, masks, done)
        transition = Transition(
            self._obs,
            step.action,
            reward,
            terminated,
            truncated,
            self._checked(next_obs),
            final_obs,
            self._valid,
            self._mask,
            self._masks(masks),
        )
        buffer.add(transition)
        self._count(transition, done if any_done else None, episodes)
        self._obs, self._mask = transition.next_obs, transition.next_action_mask

    def _after_done(
        self, obs: Any, info: dict[str, Any], masks: list[Any], done: Array
    ) -> tuple[Any, list[Any], dict[int, Obs]]:
        """Returns the observations and masks to act from, and the last observations of the episodes that ended.

        The last observations are indexed by environment. There are none if they are the observations to act from.
        """
        if self._mode == AutoresetMode.NEXT_STEP:  # `obs` still has the last observations: the next step resets
            return obs, [None if over else mask for mask, over in zip(masks, done, strict=False)], {}
        last: Any = obs if self._mode == AutoresetMode.DISABLED else info["final_obs"]
        indices = np.flatnonzero(done)
        if isinstance(last, np.ndarray) and last.dtype == object:
            final_obs = {int(i): fitted(self._space, last[i]) for i in indices}
        else:
            batch = list(zip(leaf_spaces(self._space), leaves(self._space, last), strict=True))
            final_obs = {int(i): tuple(fitted(part, leaf[i].copy())[0] for part, leaf in batch) for i in indices}
        if self._mode == AutoresetMode.DISABLED:
            obs, info = self._call("reset", options={"reset_mask": done})
            of_reset = masks_in(info, self.num_envs)
            masks = [
                new if over else old
                for new, old, over in zip(of_reset, masks or [None] * self.num_envs, done, strict=True)
            ]
        return obs, masks, final_obs

    def _masks(self, masks: list[Any]) -> Array | None:
        """Returns the action masks for the next actions, (num_envs, number of actions); None: all are allowed.

        Once there has been a mask there always is one, which allows everything where an environment gave none, so that
        buffers and tables need not tell a missing mask from one that was never there.
        """
        found = fitted_masks(self._actions, masks) if masks else None
        if found is None and self._mask is not None:
            return np.ones_like(self._mask)
        return found

    def _count(self, step: Transition, done: Array | None, episodes: list[Episode]) -> None:
        self._vector_steps += 1
        self._returns = self._returns + step.reward  # a new array takes half the time of adding in place
        next_step = self._mode == AutoresetMode.NEXT_STEP
        self.timesteps += count_true(step.valid) if next_step else self.num_envs
        if done is not None:
            for i in np.flatnonzero(done):
                episodes.append(Episode(float(self._returns[i]), int(self._vector_steps - self._began[i])))
                self._returns[i], self._began[i] = 0, self._vector_steps + next_step
        if next_step:
            self._valid = self._all_valid if done is None else ~done

    def _call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        try:
            with flushed(False):  # an environment computes as IEEE 754 says
                return getattr(self.envs, method)(*args, **kwargs)
        except RlkitError:
            raise
        except (Exception, SystemExit) as error:
            where = f"after {self.timesteps} timesteps: {told(error)}"
            raise RlkitError(one_line(f"{self.name} raised in {method} {where}")) from error

    def _told(self, misfit: Misfit) -> RlkitError:
        """Says of what does not fit whose it is, and when it came."""
        when = f"after {self.timesteps} timesteps"
        return RlkitError(f"{self.name} returned {misfit.what} {when}; {misfit.expected}")

    def _checked(self, obs: Any) -> Obs:
        # Copies, because vector environments may reuse their arrays.
        return tuple([leaf.copy() for leaf in fitted(self._space, obs, self._batch)])

    def _check_outcome(self, reward: Array, terminated: Array, truncated: Array) -> None:
        if not reward.shape == terminated.shape == truncated.shape == self._batch:
            outcome = f"reward={shown(reward)}, terminated={shown(terminated)}, truncated={shown(truncated)}"
            raise Misfit(outcome, f"expected an array of shape ({self.num_envs},) for each")
        check_computable("the reward", reward)
