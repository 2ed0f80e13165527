"""Stable-Baselines3's models as agents of ours, ours as theirs, and its interface on our agents."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlkit.sb3.algorithms import A2C, DQN, PPO
    from rlkit.sb3.exporting import to_sb3
    from rlkit.sb3.importing import from_sb3
    from rlkit.sb3.zoo import from_zoo

__all__ = ["A2C", "DQN", "PPO", "from_sb3", "from_zoo", "to_sb3"]

_MODULES = {
    **dict.fromkeys(("A2C", "DQN", "PPO"), "rlkit.sb3.algorithms"),
    "from_sb3": "rlkit.sb3.importing",
    "from_zoo": "rlkit.sb3.zoo",
    "to_sb3": "rlkit.sb3.exporting",
}


def __getattr__(name: str) -> Any:
    """Imports what is asked for, when it is asked for: SB3 takes seconds, and reading its files does not need it."""
    if name not in _MODULES:
        raise AttributeError(f"module 'rlkit.sb3' has no attribute '{name}'")
    return getattr(import_module(_MODULES[name]), name)
