"""Saving and loading agents: a safetensors file and a JSON file, never a pickle, nothing in them is executed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlkit.errors import RlkitError, check_choice, unknown
from rlkit.runs import exact_json
from rlkit.runs.files import make_folder, write_text
from rlkit.runs.reading import checked, checked_fields, damaged, read_json, read_text, shown
from rlkit.runs.run_folder import find_checkpoint
from rlkit.runs.state_files import read_state, write_state
from rlkit.runs.tensor_files import (
    MODEL_FILE,
    Header,
    check_finite,
    check_fit,
    load_tensors,
    memory_for,
    open_tensors,
    write_tensors,
)
from rlkit.system.dotted_paths import import_from_file, import_module_from_file, is_dotted_path
from rlkit.system.imports import NothingImportedFrom
from rlkit.system.user_paths import user_path

if TYPE_CHECKING:
    from gymnasium import spaces

    from rlkit.agents.base import Agent
    from rlkit.setting import AgentConfig, NetworkConfig

FORMAT = 4
READABLE_FORMATS = (1, 2, 3, 4)
"""The formats of agent.json that can be read. In format 1, fields that are now in groups were not; before format 3,
observations were not scaled by their bounds, and no hidden layers were behind CNNs by default; before format 4, small
images had a larger CNN."""
AGENT_FILE = "agent.json"
RUN_FORMAT = 1
RUN_FILE = "training.safetensors"
"""The state of a whole run, from which it is resumed."""
_FINGERPRINT = "agent"
"""The key in the header of the model file that says which agent its tensors belong to."""
_ENV_FINGERPRINT = "env"
"""The key that says which environment the agent was trained on; files of earlier versions have none."""
LARGEST_SPACE = 2**24
"""Bytes that a saved space may take beside those of the model's file."""
ANY_NUM_ENVS = (1, 2**20)
"""Few and many environments: agents are made for any number, and files don't say how many there were in training."""


def save(agent: Agent[Any], path: str | Path, *, metadata: Mapping[str, str] = {}, durable: bool = True) -> Path:
    """Writes model.safetensors and agent.json into the folder `path`, each whole or not at all; returns `path`.

    `metadata` goes into the header of the model file; `durable` waits until the disk has it. agent.json names the
    environment when the agent has an attribute `env`: {"id", "kwargs", "preprocessing"}. Raises RlkitError when the
    folder cannot be written to.
    """
    description = _describe(agent)
    try:
        text = json.dumps(description, indent=2) + "\n"
    except TypeError as error:
        raise RlkitError(f"the agent cannot be saved: its configuration or env_kwargs is not JSON: {error}") from error
    folder = make_folder(user_path(path))
    if not (folder / AGENT_FILE).is_file() or read_text(folder / AGENT_FILE) != text:
        write_text(folder / AGENT_FILE, text)
    fingerprints = {_FINGERPRINT: _fingerprint(description), _ENV_FINGERPRINT: _hash(description["env"])}
    write_tensors(folder / MODEL_FILE, agent.model.state_dict(), {**metadata, **fingerprints}, durable=durable)
    return folder


def save_run(state: Mapping[str, Any], folder: Path, *, durable: bool = True) -> None:
    """Writes training.safetensors, the state of a whole run, beside a saved agent; whole or not at all.

    Raises TypeError for a state that holds more than plain values, and RlkitError when the file cannot be written.
    """
    from rlkit import __version__

    metadata = {"format": str(RUN_FORMAT), "rlkit": __version__}
    write_state(folder / RUN_FILE, state, metadata, durable=durable)


def load_run(folder: Path) -> dict[str, Any]:
    """Reads the state of a run that `save_run` wrote; raises RlkitError when there is none, or it is damaged."""
    file = folder / RUN_FILE
    if not os.path.lexists(file):
        raise RlkitError(f"{folder} holds no run that could be resumed: {RUN_FILE} is missing")
    state, metadata = read_state(file)
    if metadata.get("format") != str(RUN_FORMAT):
        found = shown(metadata.get("format"))
        raise RlkitError(f"{file} has format {found}; this version of rlkit reads format {RUN_FORMAT}")
    return state


def load(path: str | Path, *, device: str = "auto") -> Agent[Any]:
    """The agent saved at `path`: a run folder (its best checkpoint, else its last), a checkpoint, or a model file.

    Raises RlkitError when there is none, when a file is damaged, or when the two files are of different agents.
    """
    from rlkit.config import DEVICES

    check_choice("device", device, DEVICES)
    folder = find_checkpoint(path)
    with NothingImportedFrom(folder):
        return _load(folder, device)


def _load(folder: Path, device: str) -> Agent[Any]:
    """The agent whose files are in a folder."""
    from rlkit.registry import make_agent
    from rlkit.setting import Setting

    file = folder / AGENT_FILE
    with open_tensors(folder / MODEL_FILE) as header:
        description = _read_description(folder)
        name = _read_name(description, file)
        if header.metadata.get(_FINGERPRINT) != _fingerprint(description):
            raise RlkitError(f"{folder}: {MODEL_FILE} is of another agent than the one that {AGENT_FILE} describes")
        config = _read_config(name, description, file)
        observation_space, action_space = _read_spaces(description, header, file)
        network = _read_network(description, observation_space, file)
        setting = Setting(observation_space, action_space, network, device=device)
        try:
            with memory_for(header):
                agent = make_agent(config, setting, name if is_dotted_path(name) else "")
        except RlkitError:
            raise
        except Exception as error:  # of a library, or of the user's own class, about values that cannot be
            raise damaged(file, error) from error
        check_fit(header, AGENT_FILE, agent.model.state_dict())
        tensors = load_tensors(header)
    check_finite(header.file, tensors, agent.model.state_dict())
    agent.model.load_state_dict(tensors)
    agent.env = _env(description)
    return agent


def _read_name(description: Mapping[str, Any], file: Path) -> str:
    from rlkit.agents import VARIANTS

    name: str = checked(description["agent"], str, f"{file}: agent")
    if name not in VARIANTS and not is_dotted_path(name):
        raise unknown(f"agent in {file}", shown(name).strip("'"), VARIANTS)
    return name


def _read_config(name: str, description: Mapping[str, Any], file: Path) -> AgentConfig:
    """The hyperparameters of the agent with that name."""
    from rlkit.registry import find_agent

    if is_dotted_path(name):
        import_from_file("agent", name, file)
    variant = find_agent(name)
    fields = checked(description["config"], dict[str, Any], f"{file}: config")
    try:
        fields = variant.config.upgraded(fields) if description["format"] == 1 else fields
    except (AttributeError, TypeError) as error:
        raise damaged(file, error) from error
    config = variant.make(**checked_fields(fields, variant.config, f"{file}: config"))
    if not variant.path:
        _check_config(config, file)
    return config


def _check_config(config: AgentConfig, file: Path) -> None:
    """Raises RlkitError for hyperparameters that could not have been trained with."""
    errors = []
    for num_envs in ANY_NUM_ENVS:
        try:
            config.validate(num_envs)
        except RlkitError as error:
            errors.append(error)
    if len(errors) == len(ANY_NUM_ENVS):
        raise damaged(file, f"{errors[0]}")


def _read_network(description: Mapping[str, Any], observation_space: spaces.Space[Any], file: Path) -> NetworkConfig:
    """The configuration of the network that was saved, whichever version of rlkit saved it."""
    from rlkit.networks.features import is_image
    from rlkit.setting import NetworkConfig
    from rlkit.spaces import leaf_spaces

    fields = checked_fields(description["network"], NetworkConfig, f"{file}: network")
    leaves = leaf_spaces(observation_space)
    if description["format"] < 4 and any(is_image(leaf, "cnn") for leaf in leaves):
        fields = NetworkConfig.earlier_encoder(fields)
    if description["format"] < 3:
        encoder = fields.get("encoder", NetworkConfig.encoder)
        images = any(is_image(leaf, encoder) for leaf in leaves)
        fields = NetworkConfig.upgraded(fields, images=images)
    network = NetworkConfig(**fields)
    if not isinstance(network.backbone, dict | None):  # a path, from which something else would be read
        raise damaged(file, f"network.backbone is {shown(network.backbone)}: expected the description of a network")
    network.module_args = exact_json.from_json(network.module_args)
    if network.module is not None:
        import_from_file("network.module", network.module, file)
    return network


def _read_spaces(description: Mapping[str, Any], header: Header, file: Path) -> list[spaces.Space[Any]]:
    """The observation and the action space; RlkitError for one that would take more memory than a model of its file."""
    from rlkit.space_json import from_json

    names = ("observation_space", "action_space")
    return [from_json(description[name], f"{file}: {name}", LARGEST_SPACE + header.size) for name in names]


def read_env(path: str | Path) -> dict[str, Any]:
    """The environment that the agent saved at `path` was trained on: {"id", "kwargs", "preprocessing"}.

    The module of an id such as `package.module:Id` is imported, unless it lies in the folder that is read: nothing in
    there is executed. Raises RlkitError then, and when agent.json names no environment.
    """
    folder = find_checkpoint(path)
    file = folder / AGENT_FILE
    env: Any = _env(_read_description(folder))
    if env is None:
        raise RlkitError(f"{file} names no environment: give one with env=<id>")
    types = {"id": str, "kwargs": dict, "preprocessing": str}
    if not isinstance(env, dict) or not all(isinstance(env.get(key), kind) for key, kind in types.items()):
        raise RlkitError(f"{file} is damaged: its env is not an id, kwargs and a preprocessing")
    with open_tensors(folder / MODEL_FILE) as header:
        found = _hash(exact_json.to_json(env))
        trained_on = header.metadata.get(_ENV_FINGERPRINT, found)
    if trained_on != found:
        raise RlkitError(f"{file}: env is not the one that the model was saved with; env=<id> env_kwargs=… chooses it")
    if module := env["id"].rpartition(":")[0]:
        import_module_from_file("env", env["id"], module, file)
    return env


def _describe(agent: Agent[Any]) -> dict[str, Any]:
    """All that it takes to rebuild the agent; constant over a run."""
    from rlkit import __version__
    from rlkit.networks import backbone
    from rlkit.registry import name_of
    from rlkit.space_json import to_json

    network = dataclasses.asdict(agent.network_config)
    network["module_args"] = exact_json.to_json(network["module_args"])
    if network["backbone"] is not None:
        network["backbone"] = backbone.description(agent.model)  # its weights are the agent's; what they are of is here
    return {
        "format": FORMAT,
        "rlkit": __version__,
        "agent": name_of(agent),
        "config": _fields(agent.config),
        "network": network,
        "observation_space": to_json(agent.observation_space),
        "action_space": to_json(agent.action_space),
        "env": exact_json.to_json(agent.env),
    }


def _env(description: Mapping[str, Any]) -> Any:
    """The description's environment as it was given to the agent; what cannot be read stays as it is."""
    try:
        return exact_json.from_json(description.get("env"))
    except ValueError:
        return description.get("env")


def _fields(config: Any) -> dict[str, Any]:
    return dataclasses.asdict(config)


def _fingerprint(description: Mapping[str, Any]) -> str:
    """Tells apart agents whose tensors have the same names and shapes."""
    return _hash([description[key] for key in ("agent", "config", "network", "observation_space", "action_space")])


def _hash(tree: Any) -> str:
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()


def _read_description(folder: Path) -> dict[str, Any]:
    file = folder / AGENT_FILE
    if not os.path.lexists(file):
        raise RlkitError(f"{file} is missing: it belongs beside {MODEL_FILE}")
    description = read_json(file)
    found = description.get("format") if isinstance(description, dict) else None
    if isinstance(found, bool) or found not in READABLE_FORMATS:
        known = ", ".join(map(str, READABLE_FORMATS[:-1])) + f" and {READABLE_FORMATS[-1]}"
        raise RlkitError(f"{file} has format {shown(found)}; this version of rlkit reads formats {known}")
    for key in ("agent", "config", "network", "observation_space", "action_space"):
        if key not in description:
            raise damaged(file, f"{key} is missing")
    return dict(description)
