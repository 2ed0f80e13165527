"""Checkpoints of earlier versions load, with their fields where this version has them, and answer as they did."""

from __future__ import annotations

import json
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rlkit
from rlkit.agents import VARIANTS
from rlkit.agents.dqn import DQN, DQNConfig

CHECKPOINTS = Path(__file__).parent / "fixtures" / "checkpoints"
NAMES = sorted(folder.name for folder in CHECKPOINTS.iterdir())
FORMAT_1 = [name for name in NAMES if json.loads((CHECKPOINTS / name / "agent.json").read_text())["format"] == 1]


def test_every_agent_has_a_checkpoint() -> None:
    assert {name.split("-")[0] for name in NAMES} == VARIANTS.keys()


@pytest.mark.parametrize("name", NAMES)
def test_an_earlier_versions_agent_answers_as_it_did(name: str, tmp_path: Path) -> None:
    recorded = json.loads((CHECKPOINTS / name / "answers.json").read_text())
    loaded: Any = rlkit.load(CHECKPOINTS / name, device="cpu")
    again: Any = rlkit.load(loaded.save(tmp_path), device="cpu")
    obs = np.array(recorded["obs"], loaded.observation_space.dtype)
    for agent in (loaded, again):
        np.testing.assert_array_equal(agent.predict(obs)[0], recorded["answers"]["predict"])
        for method in recorded["answers"].keys() - {"predict"}:
            # float32, summed over 8 hidden units in another order where the processor is another one
            np.testing.assert_allclose(getattr(agent, method)(obs), recorded["answers"][method], rtol=1e-4, atol=1e-5)
    assert again.config == loaded.config


@pytest.mark.parametrize("name", [name for name in FORMAT_1 if "dqn" in name or "rainbow" in name])
def test_fields_of_earlier_versions_are_in_their_groups(name: str) -> None:
    written = json.loads((CHECKPOINTS / name / "agent.json").read_text())["config"]
    agent = rlkit.load(CHECKPOINTS / name, device="cpu")
    assert isinstance(agent, DQN)
    assert DQNConfig.renamed.keys() <= written.keys()
    for field, value in written.items():
        assert attrgetter(DQNConfig.renamed.get(field, field))(agent.config) == value, field
