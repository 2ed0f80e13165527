"""Stable-Baselines3's models as agents of ours, and ours as theirs."""

from rlkit.sb3.exporting import to_sb3
from rlkit.sb3.importing import from_sb3

__all__ = ["from_sb3", "to_sb3"]
