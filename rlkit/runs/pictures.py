"""Pictures by matplotlib, which need no display, and which no result depends on."""

from __future__ import annotations

import functools
import importlib
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec

from rlkit.runs.files import atomic
from rlkit.runs.loggers import STEP_KEY
from rlkit.runs.stored_runs import StoredRun
from rlkit.system.terminal import remarked

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANELS = (
    *("train/value_loss", "train/td_error", "train/entropy", "train/epsilon", "train/q_value"),
    *("train/explained_variance", "rollout/episode_length"),
)
"""Log keys that are drawn beside the return, the first ones that a run has."""
MOST_PANELS = 3

P = ParamSpec("P")


def picture(draw: Callable[P, Path | None]) -> Callable[P, Path | None]:
    """Decorates a function that draws: a picture that cannot be drawn is a remark, and the function returns None."""

    @functools.wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Path | None:
        path: Path | None = None
        with remarked(f"the picture of {draw.__name__.removeprefix('draw_')}"):
            import_matplotlib()
            path = draw(*args, **kwargs)
        return path

    return drawn


def import_matplotlib() -> None:
    """Imports matplotlib, which refuses to be imported where MPLBACKEND names what is not installed here.

    Notebooks leave such names to the commands that they start. Our pictures are files and need no backend.
    """
    if "matplotlib" in sys.modules:
        return
    backend = os.environ.pop("MPLBACKEND", None)
    try:
        matplotlib = importlib.import_module("matplotlib")
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend
    if backend:
        with suppress(ValueError):  # a name that is right is left for whoever draws on a screen
            matplotlib.rcParams["backend"] = backend


@picture
def draw_learning_curves(run_dir: Path) -> Path | None:
    """Draws a run's return, in training and in evaluations, and a few more metrics over timesteps into curves.png.

    Returns the picture's path, or None if there are no metrics.
    """
    run = StoredRun(run_dir)
    keys = [key for key in PANELS if len(run.curve(key)[0])][: MOST_PANELS - 1]
    returns = {"training": run.curve("rollout/episode_return"), "evaluation": run.curve("eval/return_mean")}
    returns = {label: curve for label, curve in returns.items() if len(curve[0])}
    panels = [*([("return", returns)] if returns else []), *((key, {"": run.curve(key)}) for key in keys)]
    if not panels:
        return None
    figure = figure_of(len(panels), constrained=False)
    figure.subplots_adjust(0.5 / len(panels) * 0.3, 0.14, 0.99, 0.88, wspace=0.22)
    figure.suptitle(f"{run.agent} on {run.env}, seed {run.seed}", fontsize=10)
    for axes, (title, curves) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for label, (steps, values) in curves.items():
            axes.plot(steps, values, label=label, marker="o" if label == "evaluation" else None, markersize=3)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel(STEP_KEY.partition("/")[2].replace("_", " "))
        axes.grid(alpha=0.3)
        if len(curves) > 1:
            axes.legend(fontsize=8)
    return save_figure(figure, run_dir / "curves.png")


def save_figure(figure: Figure, path: Path) -> Path:
    """Writes the figure as a file of the kind that its name says, whole or not at all, and returns the path."""
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=100)
    return path


def figure_of(panels: int, height: float = 4.0, *, constrained: bool = True) -> Figure:
    """Makes a figure with room for so many panels side by side; with `constrained`, matplotlib finds their margins."""
    from matplotlib.figure import Figure

    return Figure(figsize=(max(6.0, 5.0 * panels), height), layout="constrained" if constrained else None)
