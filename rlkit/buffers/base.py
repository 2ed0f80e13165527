"""The protocol of all buffers."""

from __future__ import annotations

from typing import Protocol, TypeVar

from rlkit.buffers.transition import Transition


class Buffer(Protocol):
    """Storage that a collector fills and an agent learns from; each agent makes the kind that suits it."""

    def add(self, step: Transition) -> None:
        """Stores one vector step."""


BufferT = TypeVar("BufferT", bound=Buffer)
"""The kind of buffer that an agent learns from."""
