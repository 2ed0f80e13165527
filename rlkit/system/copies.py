"""Copies of agents: made anew from what they were made of, since engines hold the memory of their network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rlkit.system.threads import one_thread

if TYPE_CHECKING:
    from rlkit.agents.base import Agent
    from rlkit.setting import AgentConfig, Setting


def remade(
    kind: type[Agent[Any]],
    config: AgentConfig,
    setting: Setting,
    env: dict[str, Any] | None,
    state: dict[str, Any],
) -> Agent[Any]:
    """Makes an agent anew from its class, its config, its setting and its state: what copies and pickles of it hold."""
    with one_thread():
        agent = kind(config, setting)
    agent.load_state_dict(state)
    agent.env = env
    return agent
