"""Results of the companion module's recipes on real data, beside the source's figures and targets of ours.

    python benchmarks/perception.py data_root=FOLDER [--recipe lenet-mnist] [--seeds 1]
    python benchmarks/perception.py --table

Trains each missing (recipe, seed) by the ordinary command, `python -m rlkit.perception recipe=… seed=…`, one at a time.
Each finished run is at once a row of results/perception/<name>.csv. A run that was stopped is resumed from its folder
in runs/benchmarks/perception. --table turns the rows into results/perception.md.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from learning import ONE_THREAD, finished_seeds, read_rows, write_row

HERE = Path(__file__).resolve().parent
COLUMNS = (
    *("seed", "epochs", "best_epoch", "parameters", "test_loss", "test_accuracy", "test_mae", "wall_time_s", "device"),
    "other",
)


class Run(NamedTuple):
    """A recipe with the metric and the figures that its runs are compared by."""

    recipe: str
    seeds: int = 1
    metric: str = "test_accuracy"
    source: str = "–"
    """Figure that the books and lecture notes report, from which the recipe comes."""
    target: str = "–"
    """Figure that our run should reach."""
    overrides: tuple[str, ...] = ()
    """Overrides of the command, in which `{seed}` becomes the run's seed and `{runs}` the folder of all runs."""
    label: str = ""
    """Addition to the name of a run whose recipe occurs more than once."""

    @property
    def name(self) -> str:
        """Name of the run's files."""
        return f"{self.recipe}-{self.label}" if self.label else self.recipe


FASHION, MNIST = (f"task.features_from={{runs}}/{recipe}-seed0" for recipe in ("lenet-fashion", "lenet-mnist"))
"""Overrides that name the classifiers in whose features generated images are compared, which other runs here train."""
SMALLER = ("data.limit=10000",)
BFLOAT16 = ("fit.amp=bfloat16",)
"""Overrides for bfloat16, which is two to three times as fast on processors that have such arithmetic."""
RUNS = [
    Run("lenet-digits", 3),
    Run("imdb-rnn", source="80.1 %", target="80.1 %"),
    Run("imdb-glove", source="84.7 %", target="82 %"),
    Run("lenet-mnist", source="97.7 %", target="99 %"),
    Run("lenet-fashion", source="82.7 %", target="90 %"),
    Run("auto-mpg", 5, "test_mae", overrides=("data.split_seed={seed}",)),
    Run("mlp-mnist", source="87.25 %", target="98 %"),
    Run("imdb-gru", target="85 %"),
    Run(
        "resnet18-fashion",
        source="92.4 %",
        target="92.4 %",
        overrides=("model.channel_divisor=4", *BFLOAT16),
        label="quarter",
    ),
    # At full width and in float32, 50 epochs take one core 14 hours (VGG-13, 44 samples per second) or 30 (ResNet-18).
    Run(
        "vgg13-cifar10",
        source="77.5 % (50 epochs, full width)",
        overrides=("model.channel_divisor=4", "fit.epochs=15", *BFLOAT16),
        label="quarter",
    ),
    Run(
        "resnet18-cifar10",
        source="79.3 % (50 epochs, full width)",
        overrides=("model.channel_divisor=4", "fit.epochs=12", *BFLOAT16),
        label="quarter",
    ),
    Run("densenet-fashion", source="85.8 %", overrides=("data.limit=20000", "fit.epochs=3", *BFLOAT16)),
    Run("mlp-mnist-source", source="87.25 %", target="87.25 %"),
    Run("lenet-fashion-source", source="82.7 %", target="82.7 %"),
    Run("imdb-lstm", target="85 %"),
    Run("language-model", metric="test_perplexity"),
    Run("language-model-imdb", metric="test_perplexity"),
    Run("softmax-fashion"),
    Run("mlp-fashion"),
    Run("lenet-fashion-batchnorm"),
    Run("linear-regression", 1, "test_loss", source="loss 0.010977 (training)"),
    Run("linear-regression-minibatch", 1, "test_loss"),
    Run("himmelblau", 1, "test_loss", source="1.137e-12", target="0"),
    Run("learn-kernel", 3, "test_loss"),
    Run("moons-depth", 3),
    Run("moons-dropout", 3),
    Run("moons-l2", 3),
    Run("sine-polynomial", 1, "test_loss"),
    Run("frames"),
    # A fortieth of the recipe's steps, because its 1,000 epochs of one sample at a time take more than an hour.
    Run(
        "backprop-numpy",
        3,
        source="97.67 %",
        target="97.67 %",
        overrides=("fit.epochs=40", "fit.learning_rate=0.2", "fit.schedule=linear"),
    ),
    # Generative models, most of them with fewer images or epochs than their recipes, so that two cores can train them.
    Run("ae-fashion", metric="test_mse", overrides=("fit.epochs=20",)),
    Run("denoising-fashion", metric="test_mse", overrides=("fit.epochs=4", "data.limit=12000")),
    Run("adversarial-ae-fashion", metric="test_frechet_distance", overrides=("fit.epochs=12", FASHION)),
    Run("dropout-ae-fashion", metric="test_mse", overrides=("fit.epochs=8",)),
    Run("vae-conv-fashion", metric="test_elbo", overrides=("fit.epochs=4", "data.limit=20000", FASHION)),
    Run("vae-fashion", metric="test_elbo", overrides=("fit.epochs=20", FASHION)),
    Run("dcgan", metric="test_frechet_distance", overrides=(*SMALLER, "fit.epochs=6", FASHION)),
    Run("wgan-gp", metric="test_frechet_distance", overrides=(*SMALLER, "fit.epochs=10", FASHION)),
    Run("conditional-gan", metric="test_frechet_distance", overrides=(*SMALLER, "fit.epochs=6", FASHION)),
    Run("infogan-mnist", metric="test_code_purity", overrides=(*SMALLER, "fit.epochs=5", MNIST)),
    Run("sagan", metric="test_frechet_distance", overrides=("data.limit=6000", "fit.epochs=3", FASHION)),
    Run("cyclegan-mnist", metric="test_loss", overrides=("data.limit=3000", "fit.epochs=1", "model.width=8")),
    Run("gan-8gaussians", 3, "test_modes_covered"),
    Run("wgan-8gaussians", 3, "test_modes_covered"),
    Run("wgan-gp-8gaussians", 3, "test_modes_covered", target="8"),
]


def main() -> None:
    """Trains all runs that are missing, or writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", action="append", help="only this recipe, or its name with the label; repeatable")
    parser.add_argument("--seeds", type=int, help="seeds 0, 1, …: how many")
    parser.add_argument("--table", action="store_true", help="write the table instead of training")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder to write to")
    parser.add_argument("--runs", type=Path, default=HERE.parent / "runs/benchmarks/perception", help="run folders")
    parser.add_argument("overrides", nargs="*", help="more arguments, such as data_root=FOLDER fit.epochs=1")
    given = parser.parse_args()
    if given.table:
        text = table(given.results)
        (given.results / "perception.md").write_text(text)
        print(text, end="")
        return
    failed = False
    for run in RUNS:
        if given.recipe and not {run.name, run.recipe} & set(given.recipe):
            continue
        file = given.results / "perception" / f"{run.name}.csv"
        for seed in range(given.seeds or run.seeds):
            if seed not in finished_seeds(file):
                summary = train(run, seed, given.overrides, given.runs / f"{run.name}-seed{seed}")
                failed |= summary is None
                if summary:
                    write_row(file, row(summary), COLUMNS)
    sys.exit(int(failed))


def train(run: Run, seed: int, overrides: list[str], run_dir: Path) -> dict[str, Any] | None:
    """Trains, or resumes a run that was stopped; returns summary.json, or None if it failed."""
    own = [override.format(seed=seed, runs=run_dir.parent) for override in run.overrides]
    arguments = [f"recipe={run.recipe}", f"seed={seed}", *own, *overrides, f"hydra.run.dir={run_dir}"]
    if (run_dir / "checkpoints/last/training.safetensors").exists():
        arguments = [f"resume={run_dir}", *overrides]
    elif run_dir.exists():
        shutil.rmtree(run_dir)
    command = [sys.executable, "-m", "rlkit.perception", *arguments]
    process = subprocess.run(command, env=os.environ | ONE_THREAD, capture_output=True, text=True, check=False)
    if process.returncode != 0:
        print(f"{' '.join(arguments)} failed: {process.stderr.strip()}", flush=True)
        return None
    summary: dict[str, Any] = json.loads((run_dir / "summary.json").read_text())
    results = " ".join(f"{key} {value:.4g}" for key, value in summary.items() if key.startswith("test_"))
    print(f"{run.name} seed {seed}: {results} in {summary['wall_time_s']:.0f} s", flush=True)
    return summary


def row(summary: dict[str, Any]) -> dict[str, Any]:
    """Returns the columns of a run; results that have no column of their own are together in `other`."""
    others = {key: value for key, value in summary.items() if key.startswith("test_") and key not in COLUMNS}
    return summary | {"other": json.dumps(others) if others else ""}


def table(results: Path) -> str:
    """Returns the results of all runs so far as a table in Markdown."""
    lines = [
        "The model that was best in validation (or the last, where nothing is held out), on the test set: mean over",
        "seeds, lowest and highest. The source's figures are of one run each, chosen on the test set. The seconds are",
        "those of two cores that other work kept busy.",
        "",
        "`python benchmarks/perception.py data_root=FOLDER`, then `python benchmarks/perception.py --table`",
        "",
        "| recipe | parameters | epochs | seeds | result | lowest – highest | source | target | seconds per run |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for run in RUNS:
        rows = read_rows(results / "perception" / f"{run.name}.csv")
        if not rows:
            continue
        values = [value(one, run.metric) for one in rows]
        seconds = np.mean([float(one["wall_time_s"]) for one in rows])
        extent = f"{shown(min(values), run.metric)} – {shown(max(values), run.metric)}" if len(values) > 1 else "–"
        epochs = " – ".join(sorted({one["epochs"] for one in rows}, key=int))
        cells = [run.name, f"{int(rows[0]['parameters']):,}", epochs, str(len(rows))]
        cells += [shown(float(np.mean(values)), run.metric), extent, run.source, run.target, f"{seconds:,.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def value(row: dict[str, str], metric: str) -> float:
    """Returns a result of a row, from a column of its own or from `other`."""
    return float(row[metric]) if row.get(metric) else float(json.loads(row["other"])[metric])


def shown(number: float, metric: str) -> str:
    """Returns an accuracy in percent, and any other number with its metric's name."""
    return f"{number:.2%}".replace("%", " %") if metric == "test_accuracy" else f"{metric[5:]} {number:.4g}"


if __name__ == "__main__":
    main()
