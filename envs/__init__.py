"""Functions that make environments, and rlkit's own environments, which importing this package registers."""

from __future__ import annotations

from rlkit.envs.make import EnvFactory, check_id, find_spec, make_env, make_noted_env, make_vector_env
from rlkit.envs.maze import register_maze
from rlkit.envs.probes import register_probes

__all__ = ["EnvFactory", "check_id", "find_spec", "make_env", "make_noted_env", "make_vector_env"]

register_maze()
register_probes()
