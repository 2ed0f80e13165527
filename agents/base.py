"""The protocol of an agent, as the rest of the toolkit sees it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from gymnasium import spaces

from rlkit.action_masks import batch_of_masks
from rlkit.buffers.transition import BufferT
from rlkit.collector import Acting
from rlkit.errors import RlkitError
from rlkit.setting import AgentConfig, NetworkConfig, Setting
from rlkit.spaces import as_batch
from rlkit.system.ranks import Ranks

if TYPE_CHECKING:
    import torch


class Agent(Acting, Protocol[BufferT]):
    """Acts, makes the buffer it learns from, and learns from it; never steps, logs or saves by itself.

    Subclass it with the type of that buffer, `Agent[RolloutBuffer]`, for `predict` and `save`.
    """

    action_spaces: ClassVar[tuple[type[spaces.Space[Any]], ...]] = (
        spaces.Box,
        spaces.Discrete,
        spaces.MultiDiscrete,
        spaces.MultiBinary,
    )
    """The kinds of action space that it can handle."""
    config: AgentConfig
    network_config: NetworkConfig
    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    ranks: Ranks
    """The process group that trains the agent."""
    device: str
    compute: str
    """The engine that computes: what `compute=auto` became, such as "native" or "torch"; "table" without a network."""
    model: torch.nn.Module
    """The contents of a saved model: weights and normalisation statistics."""
    env: dict[str, Any] | None = None
    """The environment that it was trained on: its `id`, `kwargs` and `preprocessing`; None where nobody said."""
    notes: Sequence[str] = ()
    """Sentences for the user about choices that the agent made by itself."""
    steps_per_update: int
    """Vector steps to collect before each update."""
    _setting: Setting

    def __init__(self, config: AgentConfig, setting: Setting) -> None:
        """Takes over what every agent has of its setting; subclasses make the rest."""
        self.config, self.network_config = config, setting.network
        self.observation_space, self.action_space = setting.observation_space, setting.action_space
        self.ranks, self._setting = setting.ranks, setting

    def __reduce__(self) -> tuple[Any, ...]:
        """Lets `copy.deepcopy` and pickling make the agent anew, since engines hold the memory of its network."""
        from rlkit.system.copies import remade

        return remade, (type(self), self.config, self._setting, self.env, self.state_dict())

    def make_buffer(self, num_envs: int) -> BufferT:
        """The storage that a collector fills and `update` consumes."""

    def update(self, buffer: BufferT, progress: float) -> dict[str, float]:
        """Learns from the buffer and returns metrics by log key; `progress` is the share of the budget spent."""

    def state_dict(self) -> dict[str, Any]:
        """All of the agent's state: nested dicts of arrays and numbers."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a state that `state_dict` returned."""

    def predict(
        self,
        obs: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = True,
        action_masks: Any = None,
    ) -> tuple[Any, Any]:
        """Actions for one observation or a batch, and the next memory; Stable-Baselines3's signature.

        Raises RlkitError for an observation or a mask that does not fit its space.
        """
        batch, batched = as_batch(self.observation_space, obs)
        mask = batch_of_masks(self.action_space, action_masks, len(batch[0]))
        action = self.act(batch, action_mask=mask, explore=not deterministic).env_action
        return (action if batched else action[0]), state

    def save(self, path: str | Path) -> Path:
        """Writes model.safetensors and agent.json into the folder `path`; `rlkit.load` takes them back."""
        from rlkit import checkpoint

        return checkpoint.save(self, path)


def discrete_actions(name: str, space: spaces.Space[Any]) -> spaces.Discrete[Any]:
    """The action space, if it is Discrete.

    Raises RlkitError otherwise, saying which agents can do what the agent `name` cannot.
    """
    from rlkit.agents import VARIANTS  # which imports this module

    if isinstance(space, spaces.Discrete):
        return space
    able = [key for key, variant in VARIANTS.items() if isinstance(space, variant.agent.action_spaces)]
    agents = ", ".join(key for key in able if key == VARIANTS[key].make().name)
    raise RlkitError(f"agent={name} needs Discrete actions, not {space}; agents that can handle them: {agents}")
