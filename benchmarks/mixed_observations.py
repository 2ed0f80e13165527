"""Agents on observations of several kinds, where one part among noise names the right action, beside SB3's PPO.

    python benchmarks/mixed_observations.py [--seeds 5] [--way WAY] [--timesteps 60000]
    python benchmarks/mixed_observations.py --table

Trains in each of the ways in WAYS, with the agents' defaults but for what a way says, on named_action.py. A run is a
row of results/mixed_observations/rows.csv as soon as it has finished, so that the command can be stopped and continued.
--table writes results/mixed_observations.md.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from learning import interval, write_row

import rlkit

HERE = Path(__file__).resolve().parent
ENV = "named_action:NamedAction-v0"
EPISODES = 200
COLUMNS = ("way", "seed", "timesteps", "eval_return")
UNSCALED = {"network.encoder": "mlp", "network.scale_obs": False}


class Way(NamedTuple):
    """An agent and the fields of its network that differ from their defaults; None: Stable-Baselines3's PPO."""

    agent: str | None
    fields: Mapping[str, Any] = {}


WAYS = {
    "ppo": Way("ppo"),
    "ppo, no hidden layers behind the encoders": Way("ppo", {"network.hidden_sizes": []}),
    "ppo, encoder=mlp": Way("ppo", {"network.encoder": "mlp"}),
    "ppo, encoder=mlp, bytes as they are": Way("ppo", UNSCALED),
    "dqn": Way("dqn"),
    "dqn, no hidden layers behind the encoders": Way("dqn", {"network.hidden_sizes": []}),
    "SB3's PPO, MultiInputPolicy, numbers from 0 to 1": Way(None),
}


def main() -> None:
    """Trains all runs that are missing, or writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="seeds 0, 1, …: how many")
    parser.add_argument("--way", choices=WAYS, help="only this one")
    parser.add_argument("--timesteps", type=int, default=60_000, help="of each run")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder to write to")
    parser.add_argument("--table", action="store_true", help="write the table instead of training")
    given = parser.parse_args()
    rows = given.results / "mixed_observations" / "rows.csv"
    if given.table:
        text = table(read(rows))
        (given.results / "mixed_observations.md").write_text(text)
        print(text)
        return
    torch.set_num_threads(1)
    done = {(row["way"], int(row["seed"])) for row in read(rows)}
    for seed in range(given.seeds):
        for name, way in WAYS.items():
            if (name, seed) not in done and given.way in (None, name):
                found = train_sb3(seed, given.timesteps) if way.agent is None else train(way, seed, given.timesteps)
                row = {"way": name, "seed": seed, "timesteps": given.timesteps, "eval_return": round(found, 3)}
                write_row(rows, row, COLUMNS)
                print(row, flush=True)


def train(way: Way, seed: int, timesteps: int) -> float:
    """Trains an agent of rlkit and returns the final policy's mean return."""
    assert way.agent is not None
    settings = {**way.fields, "total_timesteps": timesteps, "eval_interval": 0, "final_eval_episodes": EPISODES}
    with tempfile.TemporaryDirectory() as folder:
        result = rlkit.train(way.agent, ENV, seed=seed, run_dir=Path(folder) / "run", **settings)
    return float(result.summary["eval_return_mean"])


def train_sb3(seed: int, timesteps: int) -> float:
    """Trains Stable-Baselines3's PPO with its defaults and returns the final policy's mean return."""
    import named_action  # registers the environment
    from stable_baselines3 import PPO
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.evaluation import evaluate_policy

    name = f"{named_action.NamedAction.__name__}-v0"
    envs = make_vec_env(name, seed=seed, env_kwargs={"scaled": True})
    learner = PPO("MultiInputPolicy", envs, seed=seed, device="cpu").learn(timesteps)
    tests = make_vec_env(name, seed=seed + 1000, env_kwargs={"scaled": True})
    mean: Any = evaluate_policy(learner, tests, n_eval_episodes=EPISODES)[0]
    return float(mean)


def read(file: Path) -> list[dict[str, str]]:
    """Returns all rows that have been written so far."""
    if not file.exists():
        return []
    with file.open(newline="") as rows:
        return list(csv.DictReader(rows))


def table(rows: list[dict[str, str]]) -> str:
    """Returns means over seeds as a table in Markdown."""
    lines = [
        "Return on `named_action.py`, where chance earns 3.3 and the best policy 10: mean over seeds, with a bootstrap",
        "95 % interval, and the lowest and highest seed, of the final policy's most likely actions over 200 episodes.",
        "Each row has the defaults but for what it says; the rows without hidden layers and with bytes as they are had",
        "been the defaults before saved agents had format 3.",
        "",
        "`python benchmarks/mixed_observations.py`, then `python benchmarks/mixed_observations.py --table`",
        "",
        "| way | seeds | timesteps | return [95 %] | lowest – highest |",
        "|---|---|---|---|---|",
    ]
    for way in WAYS:
        if mine := [row for row in rows if row["way"] == way]:
            returns = [float(row["eval_return"]) for row in mine]
            low, high = interval(returns)
            lines.append(
                f"| {way} | {len(mine)} | {int(mine[0]['timesteps']):,} "
                f"| {np.mean(returns):.2f} [{low:.2f}, {high:.2f}] | {min(returns):.2f} – {max(returns):.2f} |"
            )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
