"""Environments: the one way to make them, and the probes, which importing this registers."""

from __future__ import annotations

from rlkit.envs.make import EnvFactory, check_id, find_spec, make_env, make_vector_env
from rlkit.envs.probes import register_probes

__all__ = ["EnvFactory", "check_id", "find_spec", "make_env", "make_vector_env"]

register_probes()
