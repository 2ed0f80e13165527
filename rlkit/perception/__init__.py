"""Companion models: supervised and generative networks on real data, independent of the agents."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlkit.perception.backbone import Backbone
    from rlkit.perception.config import FitConfig
    from rlkit.perception.loop import fit
    from rlkit.perception.run import train

__all__ = ["Backbone", "FitConfig", "fit", "train"]

_MODULES = {"Backbone": "backbone", "FitConfig": "config", "fit": "loop", "train": "run"}


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used, because importing torch takes seconds."""
    if name not in _MODULES:
        raise AttributeError(f"module 'rlkit.perception' has no attribute '{name}'")
    return getattr(import_module(f"rlkit.perception.{_MODULES[name]}"), name)
