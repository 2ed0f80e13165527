"""Pictures of a run: learning curves, decision boundaries, grids of images. They need no display."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlkit.perception.loop import STEP_KEY
from rlkit.runs.files import atomic
from rlkit.runs.pictures import figure_of, picture, save_figure
from rlkit.runs.reading import read_rows

MOST_PANELS = 4
"""Largest number of metrics that are drawn side by side."""
LOG_AXIS_RATIO = 100.0
"""Losses that shrink by more than this factor get a logarithmic axis, because on a linear one they soon look flat."""


@picture
def draw_curves(run_dir: Path) -> Path | None:
    """Draws metrics.csv over epochs into curves.png, each metric's training and validation values together.

    Returns the picture's path, or None if there are no metrics yet.
    """
    rows = list(read_rows(run_dir / "metrics.csv", STEP_KEY))[1:]
    names = [key.partition("/")[2] for key in (rows[0] if rows else ()) if key.startswith(("train/", "val/"))]
    names = [name for name in dict.fromkeys(names) if not name.startswith("learning_rate")][:MOST_PANELS]
    if not names:
        return None
    figure = figure_of(len(names))
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        drawn: list[float] = []
        for prefix, label in (("train", "training"), ("val", "validation")):
            points = [(float(row["time/epoch"]), row.get(f"{prefix}/{name}")) for row in rows]
            known = [(epoch, float(value)) for epoch, value in points if value]
            if known:
                marker = "o" if len(known) == 1 else None
                axes.plot(*zip(*known, strict=True), label=label, marker=marker)
                drawn += [value for _, value in known]
        if name == "loss" and min(drawn) > 0 and max(drawn) > LOG_AXIS_RATIO * min(drawn):
            axes.set_yscale("log")
        axes.set(xlabel="epoch", title=name)
        axes.locator_params(axis="x", integer=True)
        axes.legend()
    return save_figure(figure, run_dir / "curves.png")


@picture
def draw_boundary(
    path: Path,
    points: NDArray[np.float32],
    labels: NDArray[np.int64],
    grid: tuple[NDArray[np.float32], ...],
) -> Path:
    """Draws labelled points over the probability of class 1 at every place of a plane.

    `grid` is (xs, ys, probabilities), of which the last is a matrix (len(ys), len(xs)).
    """
    figure = figure_of(1)
    axes = figure.subplots()
    xs, ys, probabilities = grid
    axes.contourf(xs, ys, probabilities, levels=np.linspace(0, 1, 11), cmap="RdBu", alpha=0.6)
    axes.contour(xs, ys, probabilities, levels=[0.5], colors="black", linewidths=1)
    axes.scatter(points[:, 0], points[:, 1], c=labels, cmap="RdBu", s=8, edgecolors="black", linewidths=0.2)
    axes.set(title="probability of the second class", xlabel="x₁", ylabel="x₂")
    return save_figure(figure, path)


@picture
def draw_function(
    path: Path, x: NDArray[np.float32], y: NDArray[np.float32], line: NDArray[np.float32], values: NDArray[np.float32]
) -> Path:
    """Draws samples (x, y), and a function's `values` at the places of `line`; all are columns, (n, 1)."""
    figure = figure_of(1)
    axes = figure.subplots()
    axes.plot(x[:, 0], y[:, 0], "o", markersize=3, label="samples")
    axes.plot(line[:, 0], values[:, 0], label="model")
    axes.set(xlabel="x", ylabel="y")
    axes.legend()
    return save_figure(figure, path)


@picture
def draw_predictions(path: Path, targets: NDArray[np.float32], outputs: NDArray[np.float32]) -> Path:
    """Draws predictions over targets, each (samples,), with the line on which a prediction is right."""
    figure = figure_of(1, height=5.0)
    axes = figure.subplots()
    axes.plot(targets, outputs, "o", markersize=3)
    ends = [min(targets.min(), outputs.min()), max(targets.max(), outputs.max())]
    axes.plot(ends, ends, color="grey", linewidth=1)
    axes.set(xlabel="target", ylabel="prediction", title="test samples")
    axes.set_aspect("equal")
    return save_figure(figure, path)


@picture
def draw_contours(
    path: Path, axis: NDArray[np.float32], surface: NDArray[np.float32], trajectory: Sequence[tuple[float, float]]
) -> Path:
    """Draws the contours of a function of the plane, and a trajectory of points whose end is a star.

    `surface` is [y, x], the function's values where x and y both go through `axis`.
    """
    figure = figure_of(1)
    axes = figure.subplots()
    axes.contourf(axis, axis, surface, levels=30)
    axes.plot(*zip(*trajectory, strict=True), "w.-", markersize=4, linewidth=1)
    axes.plot(*trajectory[-1], "r*", markersize=12)
    axes.set(xlabel="x", ylabel="y", title="log(1 + f)")
    return save_figure(figure, path)


@picture
def draw_row(path: Path, images: Mapping[str, Tensor]) -> Path:
    """Draws grey images side by side under their names; each is (1, height, width), from 0 to 1."""
    figure = figure_of(1, height=2.5)
    axes = figure.subplots(1, len(images), squeeze=False)[0]
    for ax, (name, image) in zip(axes, images.items(), strict=True):
        ax.imshow(image[0].detach().cpu().numpy(), cmap="gray", vmin=0, vmax=1)
        ax.set(title=name, xticks=[], yticks=[])
    return save_figure(figure, path)


@picture
def draw_tiles(path: Path, images: Tensor, columns: int = 10) -> Path:
    """Writes images side by side as one picture in their own pixels, without borders, in rows of `columns`.

    They are (n, 1 or 3, height, width), from 0 to 1.
    """
    from matplotlib.image import imsave

    images = images.detach().cpu().float().clamp(0, 1)
    missing = -len(images) % columns
    images = torch.cat([images, images.new_zeros(missing, *images.shape[1:])])
    count, channels, height, width = images.shape
    tiles = images.view(count // columns, columns, channels, height, width)
    sheet = tiles.permute(0, 3, 1, 4, 2).reshape(count // columns * height, columns * width, channels)
    sheet = sheet.expand(-1, -1, 3)  # grey pixels have three equal colours
    with atomic(path) as temporary:
        imsave(temporary, sheet.numpy(), format="png")
    return path


@picture
def draw_points(path: Path, groups: Mapping[str, Tensor]) -> Path:
    """Draws groups of points of the plane, each (n, 2), in a colour per group."""
    figure = figure_of(1, height=5.0)
    axes = figure.subplots()
    for name, points in groups.items():
        axes.plot(*points.detach().cpu().numpy().T, ".", markersize=3, alpha=0.5, label=name)
    axes.set_aspect("equal")
    axes.legend()
    return save_figure(figure, path)
