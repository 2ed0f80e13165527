"""PPO through an autoencoder of its environment's frames, compared with PPO through a CNN of its own.

    python benchmarks/backbone.py [--seeds 3] [--way WAY] [--timesteps 40000]
    python benchmarks/backbone.py --table

Trains an autoencoder on 3,000 frames of random play in pixel_reach.py, a board of 6 x 6 cells, and then PPO with equal
hyperparameters in each of the ways in WAYS. A run is a row of results/backbone/rows.csv as soon as it has finished, so
that the command can be stopped and continued. --table writes results/backbone.md.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from learning import interval, write_row

import rlkit
from rlkit import perception

HERE = Path(__file__).resolve().parent
ENV = "pixel_reach:Reach-v0"
EPISODES = 200
FRAMES: dict[str, Any] = {"data.envs": [ENV], "data.count": 3000, "data.every": 2, "data.image_size": 36}
AUTOENCODER: dict[str, Any] = {"model": "autoencoder", "model.channels": [16, 32], "model.latent_size": 32}
FIT: dict[str, Any] = {"fit.epochs": 25, "fit.batch_size": 16, "fit.learning_rate": 2e-3, "fit.schedule": "one_cycle"}
UNTRAINED: dict[str, Any] = {"fit.epochs": 1, "fit.learning_rate": 1e-12, "data.count": 40}
PPO: dict[str, Any] = {"agent.learning_rate": 1e-3, "agent.ent_coef": 0.01}
WIDE: dict[str, Any] = {"network.hidden_sizes": [256, 256], "network.activation": "relu"}
WAYS: dict[str, tuple[str | None, dict[str, Any]]] = {
    "autoencoder, frozen": ("trained", {"network.normalize_obs": True}),
    "autoencoder, frozen, 256-256": ("trained", {"network.normalize_obs": True, **WIDE}),
    "a CNN of its own": (None, {}),
    "autoencoder, tuned": ("trained", {"network.freeze_backbone": False}),
    "untrained, frozen": ("untrained", {"network.normalize_obs": True}),
}
COLUMNS = ("way", "seed", "timesteps", "eval_return", "train_return", "cpu_s", "trained_parameters")


def main() -> None:
    """Trains all runs that are missing, or writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0, 1, …: how many")
    parser.add_argument("--way", choices=WAYS, help="only this one")
    parser.add_argument("--timesteps", type=int, default=40_000, help="of each run")
    parser.add_argument("--runs", type=Path, default=Path("runs/backbone"), help="where the autoencoders go")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder to write to")
    parser.add_argument("--table", action="store_true", help="write the table instead of training")
    given = parser.parse_args()
    rows = given.results / "backbone" / "rows.csv"
    if given.table:
        text = table(read(rows))
        (given.results / "backbone.md").write_text(text)
        print(text)
        return
    torch.set_num_threads(1)
    folders = {
        "trained": autoencoder(given.runs / "autoencoder"),
        "untrained": autoencoder(given.runs / "untrained", **UNTRAINED),
    }
    done = {(row["way"], int(row["seed"])) for row in read(rows)}
    for seed in range(given.seeds):
        for way in WAYS:
            if (way, seed) not in done and given.way in (None, way):
                with tempfile.TemporaryDirectory() as folder:
                    row = train(way, seed, given.timesteps, folders, Path(folder) / "run")
                write_row(rows, row, COLUMNS)
                print(row, flush=True)


def autoencoder(run_dir: Path, **fields: Any) -> Path:
    """Returns the run folder of a companion model of the frames, which is trained unless it is there."""
    summary = run_dir / "summary.json"
    if not summary.exists() or json.loads(summary.read_text())["status"] != "finished":
        shutil.rmtree(run_dir, ignore_errors=True)
        settings = {"task": "autoencoding", "scale": "unit", **AUTOENCODER, **FRAMES, **FIT, **fields}
        perception.train("frames", run_dir, **settings)
    return run_dir


def train(way: str, seed: int, timesteps: int, folders: dict[str, Path], run_dir: Path) -> dict[str, Any]:
    """Trains PPO once and returns the run as a row."""
    run, fields = WAYS[way]
    settings = {**PPO, **fields, "total_timesteps": timesteps, "eval_interval": 0, "final_eval_episodes": EPISODES}
    if run:
        settings["network.backbone"] = folders[run]
    started = time.process_time()
    result = rlkit.train("ppo", ENV, seed=seed, run_dir=run_dir, **settings)
    seconds = time.process_time() - started
    with (run_dir / "metrics.csv").open(newline="") as file:
        returns = [
            float(row["rollout/episode_return"]) for row in csv.DictReader(file) if row["rollout/episode_return"]
        ]
    network: Any = result.agent.model["network"]  # type: ignore[index]
    return {
        "way": way,
        "seed": seed,
        "timesteps": timesteps,
        "eval_return": result.summary["eval_return_mean"],
        "train_return": round(float(np.mean(returns)), 4),
        "cpu_s": round(seconds, 1),
        "trained_parameters": sum(parameter.numel() for parameter in network.parameters()),
    }


def read(file: Path) -> list[dict[str, str]]:
    """Returns all rows that have been written so far."""
    if not file.exists():
        return []
    with file.open(newline="") as rows:
        return list(csv.DictReader(rows))


def table(rows: list[dict[str, str]]) -> str:
    """Returns means over seeds as a table in Markdown."""
    lines = [
        "PPO on `pixel_reach.py`, where the best policy's return is 0.92 and standing still -0.6: mean over seeds,",
        "with a bootstrap 95 % interval, of the final policy's most likely actions over 200 episodes, and of all",
        "training episodes, which tells how fast it was learned. The autoencoder's seconds are not in it.",
        "",
        "`python benchmarks/backbone.py`, then `python benchmarks/backbone.py --table`",
        "",
        "| images through | seeds | timesteps | return [95 %] | in training [95 %] | trained parameters | CPU s |",
        "|---|---|---|---|---|---|---|",
    ]
    for way in WAYS:
        if mine := [row for row in rows if row["way"] == way]:
            cells = [way, str(len(mine)), f"{int(mine[0]['timesteps']):,}"]
            for column in ("eval_return", "train_return"):
                values = [float(row[column]) for row in mine]
                low, high = interval(values)
                cells.append(f"{np.mean(values):.2f} [{low:.2f}, {high:.2f}]")
            cells.append(f"{int(mine[0]['trained_parameters']):,}")
            cells.append(f"{np.mean([float(row['cpu_s']) for row in mine]):.0f}")
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
