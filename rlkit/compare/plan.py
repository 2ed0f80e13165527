"""The runs of a comparison: which there are, in which order, and which are finished already."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from rlkit.cli import composition
from rlkit.compare.config import CompareConfig, check_once
from rlkit.compare.peers import Peer, accepted, differences, find_peer
from rlkit.config import TrainConfig
from rlkit.errors import RlkitError, shown
from rlkit.runs import grammar
from rlkit.runs.files import make_folder, write_json
from rlkit.runs.reading import read_json
from rlkit.runs.stored_runs import StoredRun, flattened

DEFAULTS = ("final_eval_episodes=100", "checkpoint_interval=0", "vectorization=sync", "curves=false")
"""Overrides of every run that the user's own come after: a final evaluation of many episodes, no checkpoints, which the
peers do not write either, and environments in the process that learns, as the peers have theirs."""
EVALUATIONS = 20
"""Evaluations in a run, which are the points of its curve, unless `eval_interval` says otherwise."""
REQUEST = "request.json"
"""File in a run's folder that says what was asked for, by which a later call knows whether it is the same run."""


@dataclass(frozen=True)
class Task:
    """One run of a comparison."""

    group: str
    """The runs that are compared with each other, by a title."""
    side: str
    """The side of the group that it is of: `rlkit`, a peer's name, or of several agents of ours the agent's."""
    seed: int
    overrides: tuple[str, ...]
    """The command line of the run; of a peer, that of its counterpart."""
    peer: Peer | None
    """The agent of another library that it trains; None: ours."""
    run_dir: Path
    request: Mapping[str, Any]
    """Everything that the run's results depend on, as JSON."""

    @property
    def title(self) -> str:
        """The run in a few words."""
        return f"{self.group}, {self.side}, seed {self.seed}"


@dataclass(frozen=True)
class Plan:
    """All runs of a comparison, interleaved: the sides of one seed follow each other."""

    tasks: Sequence[Task]
    folder: Path
    same: bool
    """True if the peers have our hyperparameters."""
    notes: Sequence[str]
    """Differences between the sides that are known before anything runs."""


def make_plan(config: CompareConfig, overrides: Sequence[str]) -> Plan:
    """Makes the runs that a command line describes; raises RlkitError for any mistake in it."""
    sweeps, others = _split(overrides)
    if len(sweeps["agent"]) < 2 and not config.all_peers:
        raise RlkitError("peers=[] with one agent leaves nothing to compare: expected agent=NAME,NAME or a peer")
    tuned = not any(override.startswith("~tuned") for override in others)
    same = config.sb3_values == "same" or (config.sb3_values == "auto" and tuned)
    composed = [
        (agent, _composed([*DEFAULTS, *others, *agent, *env])) for env in sweeps["env"] for agent in sweeps["agent"]
    ]
    folder = Path(config.folder) if config.folder else _default_folder([one for _, one in composed], sweeps)
    notes: dict[str, None] = {}
    tasks = []
    for agent, (run, line) in composed:
        peers = [find_peer(name, run.agent.name) for name in config.all_peers]
        for counterpart in peers:
            if config.sb3_args:  # only then, because looking at the constructor imports torch
                accepted(counterpart, config.sb3_args, strict=True)
            notes |= dict.fromkeys(differences(run, counterpart)) if same else {}
        title = _title(agent, run) if peers else run.env.id
        ours = "rlkit" if peers else _title(agent, run, env=False)
        for seed in config.all_seeds:
            for peer in [None, *peers]:
                side = ours if peer is None else peer.name
                place = folder / "runs" / _slug(_title(agent, run, env=False)) / _slug(run.env.id)
                request = _request(run, peer, seed, same, config.sb3_args)
                run_dir = place / f"{_slug(side)}-seed{seed}"
                tasks.append(Task(title, side, seed, (*line, f"seed={seed}"), peer, run_dir, request))
    tasks.sort(key=lambda task: config.all_seeds.index(task.seed))  # stable: all of one seed before the next
    return Plan(tasks, folder, same, list(notes))


def _split(overrides: Sequence[str]) -> tuple[dict[str, list[list[str]]], list[str]]:
    """Takes the choices of agent and env out of overrides: each is a list of override lists, one run's each."""
    sweeps: dict[str, list[list[str]]] = {"agent": [[]], "env": [[]]}
    others = []
    for line, parsed in zip(overrides, grammar.parse(overrides), strict=True):
        key = parsed.key_or_group
        if key in sweeps and not parsed.is_delete():
            if isinstance(parsed.value(), list):
                raise RlkitError(f"{line}: expected names with commas between them, without brackets")
            names = list(parsed.sweep_string_iterator()) if parsed.is_sweep_override() else []
            check_once(key, names)
            sweeps[key] = [[f"{key}={name}"] for name in names] or [[line]]
        elif key == "seed":
            raise RlkitError(f"{line}: expected seeds=5, or seeds=[0,1,2] for certain ones")
        elif key.startswith("hydra."):
            raise RlkitError(f"{line}: expected folder=FOLDER, into which all runs of the comparison go")
        elif parsed.is_sweep_override():
            value = line.partition("=")[2]
            raise RlkitError(f"{line}: agents and environments are compared; expected one value, or a list, [{value}]")
        else:
            others.append(line)
    return sweeps, others


def _composed(overrides: Sequence[str]) -> tuple[TrainConfig, tuple[str, ...]]:
    """Composes a run, whose evaluations are as many as a curve needs; returns the overrides as well."""
    config = composition.compose(overrides)
    if config.eval_interval is None:
        overrides = [*overrides, f"eval_interval={max(1, config.total_timesteps // EVALUATIONS)}"]
        config = composition.compose(overrides)
    return config, tuple(overrides)


def _title(agent: Sequence[str], config: TrainConfig, *, env: bool = True) -> str:
    name = agent[0].partition("=")[2].strip("'\"") if agent else config.agent.name
    return f"{name} on {config.env.id}" if env else name


def _slug(text: str) -> str:
    return re.sub(r"[^\w.-]+", "-", text)


def _default_folder(runs: Sequence[tuple[TrainConfig, tuple[str, ...]]], sweeps: Mapping[str, Any]) -> Path:
    """Names the folder by what is compared, so that the same command finds its runs again."""
    agents = dict.fromkeys(_title(agent, runs[0][0], env=False) for agent in sweeps["agent"])
    envs = dict.fromkeys(config.env.id for config, _ in runs)
    return Path("runs", "compare", _slug(f"{'-'.join(agents)}-{'-'.join(envs)}")[:100])


def _request(config: TrainConfig, peer: Peer | None, seed: int, same: bool, more: Mapping[str, Any]) -> dict[str, Any]:
    tree: Any = OmegaConf.to_container(OmegaConf.structured(config), resolve=True)
    values = {**dict(flattened(tree)), "seed": seed}
    values = {key: value for key, value in values.items() if not key.startswith(("logger", "verbose", "curves"))}
    if peer is not None:
        if not same:  # then nothing depends on what ours would be
            unused = ("agent.", "network.", "num_envs", "vectorization", "compute")
            values = {key: value for key, value in values.items() if not key.startswith(unused)}
        values |= {"peer": peer.path, "sb3_values": "same" if same else "defaults", "sb3_args": dict(more)}
    return values


def missing(plan: Plan) -> list[Task]:
    """Lists the tasks whose runs are not finished, and removes what is left of those that were broken off.

    Raises RlkitError for a run in the folder that was asked for something else.
    """
    found = []
    for task in plan.tasks:
        file = task.run_dir / REQUEST
        if not task.run_dir.exists():
            found.append(task)
            continue
        stored = read_json(file) if file.exists() else None
        if stored is None and any(task.run_dir.iterdir()):
            raise RlkitError(f"{task.run_dir} is no run of a comparison: choose another folder=…, or remove it")
        _check_same(task, stored)
        if StoredRun(task.run_dir).status != "finished":
            shutil.rmtree(task.run_dir)
            found.append(task)
    return found


def _check_same(task: Task, stored: Any) -> None:
    """Raises RlkitError if a run was asked for with other values than it is now."""
    if stored is None or stored == task.request:
        return
    if not isinstance(stored, dict):
        raise RlkitError(f"{task.run_dir / REQUEST} is damaged: remove {task.run_dir} to run it again")
    for key in task.request.keys() & stored.keys():  # other versions of rlkit have other fields
        if stored[key] != task.request[key]:
            raise RlkitError(
                f"{task.run_dir} was trained with {key}={shown(stored[key])}, and now it is "
                f"{shown(task.request[key])}: give the same values, another folder=…, or remove it"
            )


def begin(task: Task) -> None:
    """Makes a run's folder and writes down what it was asked for."""
    write_json(make_folder(task.run_dir) / REQUEST, task.request)
