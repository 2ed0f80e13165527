"""The book's own experiments on CartPole-v1, from the presets in conf/experiment: learning curves over ten seeds.

    python benchmarks/book.py [--name book_dqn] [--seeds 10] [--jobs 2]
    python benchmarks/book.py --plot

Trains each missing seed by the ordinary command, `python -m rlkit experiment=… seed=…`, and evaluates the final policy
over 100 episodes. Each finished run is at once a row of results/book/<name>.csv, with its results and its learning
curve: the mean return of each fiftieth of its training episodes, in a column named by that part's last episode. --plot
turns the rows into results/book.md and results/book.svg.
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from learning import COLUMNS, finished_seeds, interval, read_rows, run_rlkit, write_row

HERE = Path(__file__).resolve().parent
PARTS = 50
"""Number of points of a learning curve."""
SOLVED = 475
"""Gymnasium's reward threshold of CartPole-v1."""


class Experiment(NamedTuple):
    """One of the book's experiments: a preset, with an override."""

    name: str
    preset: str
    episodes: int
    title: str
    override: str = ""
    label: str | None = None
    """Label of the curve, in a panel of the plot that has more than one."""

    def csv_file(self, results: Path) -> Path:
        """Returns the file with the experiment's rows."""
        return results / "book" / f"{self.name}.csv"

    @property
    def grid(self) -> list[int]:
        """Last episode of each part of the learning curve."""
        return [self.episodes * part // PARTS for part in range(1, PARTS + 1)]

    @property
    def arguments(self) -> list[str]:
        """Arguments of rlkit's command, all but the seed."""
        return [argument for argument in (f"experiment={self.preset}", self.override) if argument]


EXPERIMENTS = [
    Experiment("book_reinforce", "book_reinforce", 400, "REINFORCE", label="a gradient step per time step"),
    Experiment(
        *("book_reinforce_textbook", "book_reinforce", 400, "REINFORCE"),
        override="agent.minibatch_size=null",
        label="a gradient step per episode",
    ),
    Experiment("book_ppo2", "book_ppo2", 500, "PPO2"),
    # Ten seeds of the book's 10,000 episodes would take more than an hour.
    Experiment("book_dqn", "book_dqn", 2000, "DQN", override="total_episodes=2000"),
]


def main() -> None:
    """Trains all runs that are missing, or writes the table and the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", choices=[experiment.name for experiment in EXPERIMENTS], help="only this one")
    parser.add_argument("--seeds", type=int, default=10, help="seeds 0, 1, …: how many (default 10)")
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time (default 1)")
    parser.add_argument("--plot", action="store_true", help="write the table and the plot instead of training")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder to write to")
    parser.add_argument("overrides", nargs="*", help="more arguments for rlkit, such as total_episodes=20")
    given = parser.parse_args()
    if given.plot:
        text = table(given.results)
        (given.results / "book.md").write_text(text)
        plot(given.results)
        print(text)
        return
    runs = [(e, seed) for e in EXPERIMENTS if given.name in (None, e.name) for seed in range(given.seeds)]
    missing = [(e, seed) for e, seed in runs if seed not in finished_seeds(e.csv_file(given.results))]
    print(f"{len(missing)} of {len(runs)} runs to do", flush=True)
    with ThreadPoolExecutor(given.jobs) as pool:
        done = list(pool.map(lambda run: train(run[0], run[1], given.overrides, given.results), missing))
    sys.exit(0 if all(done) else 1)


def train(experiment: Experiment, seed: int, overrides: list[str], results: Path) -> bool:
    """Trains once and writes the run into its CSV file; returns False if it failed."""
    arguments = [*experiment.arguments, f"seed={seed}", "final_eval_episodes=100", *overrides]
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder) / "run"
        summary = run_rlkit(arguments, run_dir)
        if summary is None:
            return False
        with (run_dir / "metrics.csv").open(newline="") as metrics:
            curve = resampled(list(csv.DictReader(metrics)), experiment.grid)
    columns = {str(episode): round(value, 2) for episode, value in zip(experiment.grid, curve, strict=True)}
    write_row(experiment.csv_file(results), summary | columns, [*COLUMNS, *columns])
    return True


def resampled(rows: list[dict[str, str]], grid: list[int]) -> list[float]:
    """Returns the mean return of each part of the training episodes; `grid` has the last episode of each part.

    Each row of metrics.csv has the mean return of the episodes since the row before. Their sum is exact at the rows,
    and is interpolated linearly between them. Parts that the run did not reach are NaN.
    """
    episodes, sums = [0.0], [0.0]
    for row in rows:
        if row["rollout/episode_return"]:
            count = float(row["time/total_episodes"])
            sums.append(sums[-1] + float(row["rollout/episode_return"]) * (count - episodes[-1]))
            episodes.append(count)
    edges = [0, *grid]
    means: list[float] = (np.diff(np.interp(edges, episodes, sums, right=np.nan)) / np.diff(edges)).tolist()
    return means


def curves(experiment: Experiment, results: Path) -> Any:
    """Returns the learning curves of all seeds: (seeds, points)."""
    rows = read_rows(experiment.csv_file(results))
    return np.array([[float(row[str(episode)]) for episode in experiment.grid] for row in rows])


def table(results: Path) -> str:
    """Returns the results of all runs so far as a table in Markdown."""
    lines = [
        "Return of the final policy over 100 episodes of CartPole-v1, without exploration: mean over seeds, with a",
        "bootstrap 95 % interval over seeds, and the lowest and highest seed. Solved: seeds whose return is at least",
        f"{SOLVED}. In training: mean return of the last tenth of the training's episodes, with exploration.",
        "",
        "`python benchmarks/book.py`, then `python benchmarks/book.py --plot`",
        "",
        "| preset | episodes | timesteps | seeds | return [95 %] | lowest – highest | solved | in training |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for experiment in EXPERIMENTS:
        if rows := read_rows(experiment.csv_file(results)):
            returns = [float(row["eval_return_mean"]) for row in rows]
            low, high = interval(returns)
            steps = np.mean([float(row["total_timesteps"]) for row in rows])
            training = curves(experiment, results)[:, -PARTS // 10 :].mean()
            lines.append(
                f"| `{' '.join(experiment.arguments)}` | {experiment.episodes:,} | {steps:,.0f} | {len(rows)} "
                f"| {np.mean(returns):.1f} [{low:.1f}, {high:.1f}] | {min(returns):.1f} – {max(returns):.1f} "
                f"| {sum(mean >= SOLVED for mean in returns)} of {len(rows)} | {training:.1f} |"
            )
    return "\n".join(lines) + "\n"


def plot(results: Path) -> None:
    """Draws the learning curves of all runs so far: the mean over seeds, its interval, and each seed."""
    import matplotlib as mpl
    from matplotlib import pyplot as plt

    mpl.use("svg")
    plt.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "rlkit", "font.size": 9}
    titles = list(dict.fromkeys(experiment.title for experiment in EXPERIMENTS))
    figure, panels = plt.subplots(1, len(titles), figsize=(11, 3.4), sharey=True, layout="constrained")
    for experiment in EXPERIMENTS:
        if not read_rows(experiment.csv_file(results)):
            continue
        panel, returns = panels[titles.index(experiment.title)], curves(experiment, results)
        reached = np.isfinite(returns).all(0)  # by every seed; these are all points, unless the budget was cut
        grid, returns = np.array(experiment.grid)[reached], returns[:, reached]
        (line,) = panel.plot(grid, returns.mean(0), linewidth=2, label=experiment.label)
        panel.plot(grid, returns.T, color=line.get_color(), linewidth=0.5, alpha=0.25)
        low, high = np.array([interval(list(point)) for point in returns.T]).T
        panel.fill_between(grid, low, high, color=line.get_color(), alpha=0.25, linewidth=0)
        panel.set(title=experiment.title, xlabel="episodes", xlim=(0, experiment.episodes), ylim=(0, 510))
        if experiment.label:
            panel.legend(loc="upper left", frameon=False)
    panels[0].set_ylabel("return while training")
    figure.savefig(results / "book.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
