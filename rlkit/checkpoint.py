"""Saving and loading agents: a safetensors file and a JSON file, never a pickle, nothing in them is executed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlkit.errors import RlkitError, check_choice, unknown
from rlkit.runs.files import make_folder, write_text
from rlkit.runs.run_folder import find_checkpoint
from rlkit.runs.tensor_files import MODEL_FILE, check_fit, damaged, read_tensors, write_tensors
from rlkit.system.dotted_paths import import_from_file, import_module_from_file, is_dotted_path
from rlkit.system.imports import NothingImportedFrom

if TYPE_CHECKING:
    from gymnasium import spaces

    from rlkit.agents.base import Agent
    from rlkit.setting import NetworkConfig

FORMAT = 3
READABLE_FORMATS = (1, 2, 3)
"""The formats of agent.json that can be read. In format 1, fields that are now in groups were not; before format 3,
observations were not scaled by their bounds, and no hidden layers were behind CNNs by default."""
AGENT_FILE = "agent.json"
_FINGERPRINT = "agent"
"""The key in the header of the model file that says which agent its tensors belong to."""


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
    folder = make_folder(Path(path))
    if not (folder / AGENT_FILE).is_file() or (folder / AGENT_FILE).read_bytes() != text.encode():
        write_text(folder / AGENT_FILE, text)
    fingerprint = {_FINGERPRINT: _fingerprint(description)}
    write_tensors(folder / MODEL_FILE, agent.model.state_dict(), {**metadata, **fingerprint}, durable=durable)
    return folder


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
    from rlkit.agents import VARIANTS
    from rlkit.registry import find_agent, make_agent
    from rlkit.setting import Setting
    from rlkit.space_json import from_json

    description = _read_description(folder)
    tensors, metadata = read_tensors(folder / MODEL_FILE)
    try:
        if (name := description["agent"]) not in VARIANTS and not is_dotted_path(name):
            raise unknown(f"agent in {folder / AGENT_FILE}", name, VARIANTS)
        if metadata.get(_FINGERPRINT) != _fingerprint(description):
            raise RlkitError(f"{folder}: {MODEL_FILE} is of another agent than the one that {AGENT_FILE} describes")
        if is_dotted_path(name):
            import_from_file("agent", name, folder / AGENT_FILE)
        variant, fields = find_agent(name), description["config"]
        config = variant.make(**(variant.config.upgraded(fields) if description["format"] == 1 else fields))
        observation_space, action_space = (from_json(description[key]) for key in ("observation_space", "action_space"))
        network = _network(description, observation_space)
        if network.module is not None:
            import_from_file("network.module", network.module, folder / AGENT_FILE)
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(folder / AGENT_FILE, error) from error
    agent = make_agent(config, Setting(observation_space, action_space, network, device=device), variant.path)
    check_fit(folder / MODEL_FILE, AGENT_FILE, agent.model.state_dict(), tensors)
    agent.model.load_state_dict(tensors)
    agent.env = description.get("env")
    return agent


def read_env(path: str | Path) -> dict[str, Any]:
    """The environment that the agent saved at `path` was trained on: {"id", "kwargs", "preprocessing"}.

    The module of an id such as `package.module:Id` is imported, unless it lies in the folder that is read: nothing in
    there is executed. Raises RlkitError then, and when agent.json names no environment.
    """
    folder = find_checkpoint(path)
    file = folder / AGENT_FILE
    env: Any = _read_description(folder).get("env")
    if env is None:
        raise RlkitError(f"{file} names no environment: give one with env=<id>")
    types = {"id": str, "kwargs": dict, "preprocessing": str}
    if not isinstance(env, dict) or not all(isinstance(env.get(key), kind) for key, kind in types.items()):
        raise RlkitError(f"{file} is damaged: its env is not an id, kwargs and a preprocessing")
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
        "env": agent.env,
    }


def _network(description: Mapping[str, Any], observation_space: spaces.Space[Any]) -> NetworkConfig:
    """The configuration of the network that was saved, whichever version of rlkit saved it."""
    from rlkit.networks.features import is_image
    from rlkit.setting import NetworkConfig
    from rlkit.spaces import leaf_spaces

    fields: dict[str, Any] = dict(description["network"])
    if description["format"] < 3:
        images = any(is_image(leaf, fields["encoder"]) for leaf in leaf_spaces(observation_space))
        fields = NetworkConfig.upgraded(fields, images=images)
    return NetworkConfig(**fields)


def _fields(config: Any) -> dict[str, Any]:
    return dataclasses.asdict(config)


def _fingerprint(description: Mapping[str, Any]) -> str:
    """Tells apart agents whose tensors have the same names and shapes."""
    parts = [description[key] for key in ("agent", "config", "network", "observation_space", "action_space")]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _read_description(folder: Path) -> dict[str, Any]:
    file = folder / AGENT_FILE
    try:
        description = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RlkitError(f"{file} is missing: it belongs beside {MODEL_FILE}") from error
    except (OSError, ValueError) as error:
        raise damaged(file, error) from error
    found = description.get("format") if isinstance(description, dict) else None
    if found not in READABLE_FORMATS:
        known = ", ".join(map(str, READABLE_FORMATS[:-1])) + f" and {READABLE_FORMATS[-1]}"
        raise RlkitError(f"{file} has format {found!r}; this version of rlkit reads formats {known}")
    return dict(description)
