"""The returns of runs as a picture for papers and slides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rlkit.errors import RlkitError
from rlkit.report.runs_page import RETURNS, averaged
from rlkit.runs.pictures import figure_of, import_matplotlib, save_figure
from rlkit.runs.stored_runs import StoredRun


def draw_returns(groups: Mapping[str, Mapping[str, Sequence[StoredRun]]], path: Path) -> Path:
    """Draws the return over timesteps, a panel per environment and a line per side, with intervals over seeds.

    The kind of file is that of the path's name. Returns the path; raises RlkitError if no run has a return.
    """
    import_matplotlib()
    drawn = {
        env: {side: found for side, runs in sides.items() if (found := averaged(runs, _key(sides)))}
        for env, sides in groups.items()
    }
    drawn = {env: curves for env, curves in drawn.items() if curves}
    if not drawn:
        raise RlkitError(f"no run has a return to draw: expected {' or '.join(RETURNS)} in metrics.csv")
    figure = figure_of(len(drawn), height=3.6)
    for axes, (env, curves) in zip(figure.subplots(1, len(drawn), squeeze=False)[0], drawn.items(), strict=True):
        for side, (places, mean, low, high) in curves.items():
            (line,) = axes.plot(places["timesteps"], mean, label=side)
            axes.fill_between(places["timesteps"], low, high, color=line.get_color(), alpha=0.2, linewidth=0)
        axes.set(title=env, xlabel="timesteps", ylabel="return")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    return save_figure(figure, path)


def _key(sides: Mapping[str, Sequence[StoredRun]]) -> str:
    """Chooses evaluations if every run has them, else the episodes of training."""
    evaluated = all(RETURNS[0] in run.metrics for runs in sides.values() for run in runs)
    return RETURNS[0] if evaluated else RETURNS[1]
