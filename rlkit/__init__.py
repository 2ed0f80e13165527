"""Reinforcement learning, from the command line and from Python: `rlkit.train(agent="ppo", env="CartPole-v1")`."""

import sys

if sys.argv[:1] == ["-m"] and not sys.flags.safe_path:
    # Python looks for modules in the working directory first. That may be a run folder that somebody else has made, so
    # that nothing else is imported before this is known.
    working_directory = sys.path.pop(0)
    from rlkit.system.imports import return_to_path

    return_to_path(working_directory, sys.orig_argv)

import os.path
from importlib import import_module
from typing import TYPE_CHECKING, Any

from rlkit.errors import RlkitError

if TYPE_CHECKING:
    from rlkit.api import train
    from rlkit.checkpoint import load
    from rlkit.episodes import evaluate_policy
    from rlkit.sb3.exporting import to_sb3
    from rlkit.sb3.importing import from_sb3

if not os.path.isdir(os.path.join(__path__[0], "agents")):
    # A clone without symbolic links has text files in place of rlkit/agents, rlkit/envs and rlkit/conf. The folders to
    # which these lead are found beside this package.
    __path__.append(os.path.dirname(os.path.abspath(__path__[0])))

__version__ = "0.1.0"
__all__ = ["RlkitError", "__version__", "evaluate_policy", "from_sb3", "load", "to_sb3", "train"]

_MODULES = {
    "train": "rlkit.api",
    "load": "rlkit.checkpoint",
    "evaluate_policy": "rlkit.episodes",
    "from_sb3": "rlkit.sb3.importing",
    "to_sb3": "rlkit.sb3.exporting",
}


def __getattr__(name: str) -> Any:
    """Imports what is asked for, when it is asked for: torch takes seconds, and not every command needs it."""
    if name not in _MODULES:
        raise AttributeError(f"module 'rlkit' has no attribute '{name}'")
    return getattr(import_module(_MODULES[name]), name)
