"""Models with SB3's interface as one zip file: the agent's two files, the state of its training, and a few facts."""

from __future__ import annotations

import io
import json
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rlkit import checkpoint
from rlkit.agents.base import Agent
from rlkit.errors import RlkitError
from rlkit.runs.files import atomic
from rlkit.runs.reading import damaged, parse_json
from rlkit.runs.tensor_files import MODEL_FILE, read_tensors, write_tensors
from rlkit.sb3.hyperparameters import COUNTERPARTS
from rlkit.sb3.importing import from_sb3
from rlkit.system.user_paths import user_path

FACTS_FILE, STATE_FILE = "sb3.json", "training.safetensors"
FILES = (checkpoint.AGENT_FILE, MODEL_FILE, FACTS_FILE, STATE_FILE)
LARGEST = 2**34
"""Bytes of the largest file in a zip that is read."""
KEY = "state"
"""The key of the header of the training's state that holds all of it but arrays."""


def save(agent: Agent[Any], path: Any, facts: Mapping[str, Any]) -> None:
    """Writes an agent, its training's state and facts about it into a zip; `path` may be an open file.

    The ending .zip is added where there is none, as SB3 does. Raises RlkitError where it cannot be written.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = checkpoint.save(agent, scratch, durable=False)
        arrays: dict[str, torch.Tensor] = {}
        tree = _taken_apart(agent.state_dict(), "", arrays)
        write_tensors(folder / STATE_FILE, arrays, {KEY: json.dumps(tree)}, durable=False)
        (folder / FACTS_FILE).write_text(json.dumps(dict(facts)))
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w") as archive:
            for name in FILES:
                archive.write(folder / name, name)
    if hasattr(path, "write"):
        path.write(content.getvalue())
        return
    file = user_path(path)
    file = file if file.suffix else file.with_name(f"{file.name}.zip")
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic(file) as temporary:
        Path(temporary).write_bytes(content.getvalue())


def load(path: Any, *, device: str = "auto") -> tuple[Agent[Any], dict[str, Any]]:
    """Returns the agent in a zip that `save` wrote, or SB3 itself, and the facts about it.

    Raises RlkitError for other files, and damaged ones.
    """
    if hasattr(path, "read"):
        with tempfile.TemporaryDirectory() as scratch:
            (file := Path(scratch) / "model.zip").write_bytes(path.read())
            return load(file, device=device)
    file = user_path(path)
    if not file.exists() and file.with_name(f"{file.name}.zip").exists():
        file = file.with_name(f"{file.name}.zip")
    if not file.is_file():
        raise RlkitError(f"cannot read {file}: there is no such file")
    try:
        with zipfile.ZipFile(file) as archive:
            ours = set(FILES) <= set(archive.namelist())
            if ours:
                return _load(archive, file, device)
    except zipfile.BadZipFile as error:
        raise damaged(file, "it is no zip file") from error
    agent = from_sb3(file, device=device)
    name = next(name for name, each in COUNTERPARTS.items() if each.config is type(agent.config))
    return agent, {"theirs": name}


def _load(archive: zipfile.ZipFile, file: Path, device: str) -> tuple[Agent[Any], dict[str, Any]]:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for name in FILES:
            if archive.getinfo(name).file_size > min(LARGEST, 4 * file.stat().st_size + 2**20):
                raise damaged(file, f"{name} is larger than the file it is in")
            (folder / name).write_bytes(archive.read(name))
        agent = checkpoint.load(folder, device=device)
        arrays, metadata = read_tensors(folder / STATE_FILE)
        facts = parse_json((folder / FACTS_FILE).read_text(), file)
        tree = parse_json(metadata.get(KEY, ""), file)
    if not isinstance(facts, dict) or facts.get("theirs") not in COUNTERPARTS:
        raise damaged(file, f"{FACTS_FILE} names no algorithm")
    try:
        agent.load_state_dict(_put_together(tree, arrays))
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise damaged(file, error) from error
    return agent, facts


def _taken_apart(value: Any, name: str, arrays: dict[str, torch.Tensor]) -> Any:
    """Returns a tree of JSON values, with a reference for each array, which goes into `arrays`."""
    if isinstance(value, Mapping):
        return {key: _taken_apart(part, f"{name}/{key}", arrays) for key, part in value.items()}
    if isinstance(value, np.ndarray):
        arrays[name] = torch.from_numpy(np.array(value))
        return {"array": name}
    if isinstance(value, torch.Tensor):
        arrays[name] = value.detach().cpu()
        return {"tensor": name}
    return value.item() if isinstance(value, np.generic) else value


def _put_together(tree: Any, arrays: Mapping[str, torch.Tensor]) -> Any:
    """Returns the value that `_taken_apart` took apart."""
    if isinstance(tree, dict):
        if list(tree) == ["array"]:
            return arrays[tree["array"]].numpy()
        if list(tree) == ["tensor"]:
            return arrays[tree["tensor"]]
        return {key: _put_together(part, arrays) for key, part in tree.items()}
    return tree
