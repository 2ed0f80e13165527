"""Exporting what a folder holds, an agent or a companion model, and checking the file before it is kept."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rlkit import __version__, checkpoint
from rlkit.agents.base import Agent
from rlkit.errors import RlkitError
from rlkit.export import onnx_file
from rlkit.export.agent_graph import AgentGraph
from rlkit.export.model_graph import ModelGraph
from rlkit.networks.own import probe
from rlkit.perception.checkpoint import DESCRIPTION_FILE, load_model
from rlkit.runs.run_folder import find_checkpoint
from rlkit.space_json import to_json
from rlkit.spaces import Array, leaves


@dataclass(frozen=True)
class Exported:
    """A file that was written, and how it was found to agree."""

    file: Path
    observations: int
    differences: Mapping[str, float]
    """The largest difference of each output from rlkit's, as a share of the largest number where that is above 1."""
    actions_differ: int
    """Discrete actions that differ, since the best two were equal but for rounding."""


def export(run: str | Path, file: str | Path | None = None, *, observations: int = 1000) -> Exported:
    """Writes what a run folder, a checkpoint or a model file holds as an ONNX file, by default `model.onnx` beside it.

    The file is checked on observations drawn from the agent's space: onnxruntime's outputs have to be those of
    `predict`, and is removed where they are not. Raises RlkitError then, and for agents without a network.
    """
    onnx_file.check_installed()
    folder = find_checkpoint(run)
    target = folder / "model.onnx" if file is None else Path(file).expanduser()
    if target.is_dir() or not target.parent.is_dir():
        raise RlkitError(f"file={target}: expected the path of a file in a folder that exists")
    if os.path.lexists(folder / DESCRIPTION_FILE):
        return _export_model(folder, target, observations)
    return export_agent(checkpoint.load(folder, device="cpu"), target, observations=observations)


def export_agent(agent: Agent[Any], file: Path, *, observations: int = 1000) -> Exported:
    """Writes an agent as an ONNX file, checked as in `export`."""
    graph = AgentGraph(agent)
    obs = probe(agent.observation_space, observations)
    inputs = graph.inputs(obs)
    metadata = {
        "rlkit": __version__,
        "agent": agent.config.name,
        "env": json.dumps(agent.env),
        "observation_space": json.dumps(to_json(agent.observation_space)),
        "action_space": json.dumps(to_json(agent.action_space)),
    }
    onnx_file.write(graph, [part[:2] for part in inputs], file, metadata)
    named = {name: part.numpy() for name, part in zip(graph.input_names, inputs, strict=True)}
    return _checked(file, named, _answers(agent, graph, obs), graph.chosen)


def _answers(agent: Agent[Any], graph: AgentGraph, obs: tuple[Array, ...]) -> dict[str, Array]:
    """Returns the outputs that the graph should have, as the agent itself computes them."""
    nested = _nested(agent, obs)
    answers = {"action": agent.predict(nested)[0]}
    own: Any = agent
    if "q_values" in graph.output_names:
        answers["q_values"] = own.q_values(nested)
        return answers
    policy = getattr(own, "policy", None)
    if policy is not None:
        params = policy.params(obs)
        names = [name for name in graph.output_names if name not in ("action", "value")]
        answers |= dict(zip(names, np.split(params, len(names), axis=1), strict=True))
        answers["value"] = policy.values(obs)
    return answers


def _nested(agent: Agent[Any], obs: tuple[Array, ...]) -> Any:
    """Puts the leaves of a batch of observations together as the space is nested."""
    from gymnasium import spaces

    remaining = iter(obs)

    def build(space: spaces.Space[Any]) -> Any:
        if isinstance(space, spaces.Dict):
            return {key: build(part) for key, part in space.spaces.items()}
        if isinstance(space, spaces.Tuple):
            return tuple(build(part) for part in space.spaces)
        return next(remaining)

    nested = build(agent.observation_space)
    assert len(leaves(agent.observation_space, nested)) == len(obs)
    return nested


def _export_model(folder: Path, file: Path, rows: int) -> Exported:
    """Writes a companion model as an ONNX file, checked against torch."""
    model, inputs, description = load_model(folder)
    graph = ModelGraph(model, inputs, description)
    sample = graph.sample(rows, torch.Generator().manual_seed(0))
    metadata = {"rlkit": __version__, "model": description.model, "classes": json.dumps(list(description.classes))}
    onnx_file.write(graph, [sample[:2]], file, metadata)
    with torch.no_grad():
        parts = [graph(sample[start : start + onnx_file.CHUNK]) for start in range(0, rows, onnx_file.CHUNK)]
    columns = [torch.cat(column).numpy() for column in zip(*parts, strict=True)]
    expected = dict(zip(graph.output_names, columns, strict=True))
    return _checked(file, {"inputs": sample.numpy()}, expected, graph.chosen)


def _checked(
    file: Path, inputs: Mapping[str, Array], expected: Mapping[str, Array], choose: Callable[[Array], Array]
) -> Exported:
    """Compares onnxruntime's outputs with the expected ones; removes the file and raises RlkitError if they differ.

    Discrete choices, the first or the last output, must be those that `choose` makes of onnxruntime's own numbers:
    where the best two are equal but for rounding, either is right.
    """
    try:
        found = onnx_file.run(file, inputs)
        differences = {name: onnx_file.difference(answer, found[name]) for name, answer in expected.items()}
        choice = "action" if "action" in expected else "label"
        other = 0
        if choice in expected and expected[choice].dtype.kind in "biu":
            del differences[choice]
            numbers = next(found[name] for name in ("q_values", "logits", "output") if name in found)
            if not np.array_equal(found[choice], choose(numbers)):
                raise RlkitError(f"{file}: onnxruntime chooses another {choice} than its own numbers say")
            other = int((expected[choice] != found[choice]).reshape(len(numbers), -1).any(1).sum())
        for name, value in differences.items():
            if not value <= onnx_file.BOUND:
                raise RlkitError(f"{file}: onnxruntime's {name} differs by {value:.1e}: expected at most 1e-5")
    except BaseException:
        file.unlink(missing_ok=True)
        raise
    return Exported(file, len(next(iter(inputs.values()))), differences, other)
