"""RL Zoo's files of hyperparameters, read without evaluating anything in them."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml  # type: ignore[import-untyped]
from stable_baselines3.common.atari_wrappers import AtariWrapper
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack, VecNormalize

from rlkit.errors import RlkitError, shown, unknown
from rlkit.runs.reading import LARGEST_SETTINGS, damaged, read_text
from rlkit.sb3.algorithms import A2C, DQN, PPO, Algorithm
from rlkit.sb3.hyperparameters import Falling
from rlkit.system.user_paths import user_path

ALGORITHMS: dict[str, type[Algorithm]] = {"ppo": PPO, "a2c": A2C, "dqn": DQN}
WRAPPERS: dict[str, Any] = {
    "stable_baselines3.common.atari_wrappers.AtariWrapper": AtariWrapper,
}
"""Wrappers that a file may name."""
OF_ENVIRONMENTS = ("n_envs", "normalize", "frame_stack", "env_wrapper", "n_timesteps", "vec_env_wrapper", "callback")
"""Entries that are no arguments of an algorithm."""


class FromZoo(NamedTuple):
    """A model as RL Zoo would make it, and the steps that it would be trained for."""

    model: Algorithm
    total_timesteps: int


def from_zoo(path: str | Path, env: str, *, algo: str | None = None, seed: int = 0, **changes: Any) -> FromZoo:
    """Makes the model that RL Zoo's file `hyperparams/ppo.yml` describes for an environment.

    The algorithm is the file's name, or `algo`; `changes` replace entries of the file. Expressions in the file are read
    as literals, `dict(…)` and `nn.…`: nothing is evaluated. Raises RlkitError for what is not there or cannot be done.
    """
    file = user_path(path)
    name = algo or file.stem
    if name not in ALGORITHMS:
        raise unknown("algo", name, ALGORITHMS)
    entries = {**_read(file, env), **changes}
    arguments = {key: _value(key, value) for key, value in entries.items() if key not in OF_ENVIRONMENTS}
    for key in ("vec_env_wrapper", "callback"):
        if entries.get(key):
            raise RlkitError(f"{file}: {key}={shown(entries[key])} names code, which is not run from a file")
    envs = _environments(env, entries, seed, float(arguments.get("gamma", 0.99)))
    policy = arguments.pop("policy", "MlpPolicy")
    model = ALGORITHMS[name](policy, envs, seed=seed, **arguments)
    return FromZoo(model, int(float(entries.get("n_timesteps", 0))))


def _read(file: Path, env: str) -> dict[str, Any]:
    """Returns the entries for an environment; Atari games share one."""
    try:
        found = yaml.safe_load(read_text(file, LARGEST_SETTINGS))
    except yaml.YAMLError as error:
        raise damaged(file, "it is no YAML of plain values") from error
    if not isinstance(found, dict):
        raise damaged(file, "expected environments and their hyperparameters")
    key = "atari" if env not in found and ("NoFrameskip" in env or env.startswith("ALE/")) else env
    if key not in found or not isinstance(found[key], dict):
        raise unknown(f"environment in {file}", env, map(str, found))
    return dict(found[key])


def _value(key: str, value: Any) -> Any:
    """Returns an entry as the algorithm takes it: `lin_0.001` is a schedule, and texts of dicts are read as such."""
    if key in ("learning_rate", "clip_range", "clip_range_vf") and isinstance(value, str):
        start = value.removeprefix("lin_")
        return Falling(_number(key, start)) if value.startswith("lin_") else _number(key, value)
    if key == "policy_kwargs" and isinstance(value, str):
        return read_expression(key, value)
    if key == "train_freq" and isinstance(value, list):
        return tuple(value)
    return value


def _number(key: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise RlkitError(f"{key}={text}: expected a number, or lin_ and a number") from error


def read_expression(key: str, text: str) -> Any:
    """Reads a Python expression of literals, `dict(…)` and classes `nn.…`; raises RlkitError for any other."""
    try:
        return _read_node(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise RlkitError(f"{key}={shown(text)}: expected literals, dict(…) and nn.…; nothing is run") from error


def _read_node(node: ast.expr) -> Any:
    match node:
        case ast.Call(func=ast.Name(id="dict"), args=[], keywords=keywords):
            return {str(each.arg): _read_node(each.value) for each in keywords}
        case ast.Dict(keys=keys, values=values):
            return {ast.literal_eval(k) if k else "": _read_node(v) for k, v in zip(keys, values, strict=True)}
        case ast.List(elts=parts):
            return [_read_node(part) for part in parts]
        case (
            ast.Attribute(value=ast.Name(id="nn"), attr=name)
            | ast.Attribute(value=ast.Attribute(value=ast.Name(id="torch" | "th"), attr="nn"), attr=name)
        ):
            found = getattr(torch.nn, name, None)
            if not (isinstance(found, type) and issubclass(found, torch.nn.Module)):
                raise ValueError(name)
            return found
    return ast.literal_eval(node)


def _environments(env: str, entries: dict[str, Any], seed: int, gamma: float) -> VecEnv:
    """Makes SB3's environments with the wrappers that a file asks for."""
    wrappers = entries.get("env_wrapper") or []
    wrappers = wrappers if isinstance(wrappers, list) else [wrappers]
    for wrapper in wrappers:
        if wrapper not in WRAPPERS:
            raise unknown("env_wrapper", shown(wrapper).strip("'"), WRAPPERS)
    kind = WRAPPERS[wrappers[0]] if wrappers else None
    envs = make_vec_env(env, int(entries.get("n_envs", 1)), seed=seed, wrapper_class=kind)
    normalize = entries.get("normalize")
    if isinstance(normalize, str):
        normalize = read_expression("normalize", normalize)
    if normalize:
        options = normalize if isinstance(normalize, dict) else {}
        envs = VecNormalize(envs, **{"gamma": gamma, **options})
    if frames := int(entries.get("frame_stack") or 0):
        envs = VecFrameStack(envs, frames)
    return envs
