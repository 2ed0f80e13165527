"""Statistics over few runs, by Agarwal et al. (2021): interquartile means, probabilities, bootstrap intervals.

A *task* is an environment, and `scores` are its runs' results, one per seed; `tasks` are several of them. The
bootstrap is stratified: runs are drawn again within each task, never across. rliable computes the same numbers; a
test holds ours to its results.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Scores = NDArray[np.float64]

RESAMPLES = 10_000
"""Bootstrap samples behind an interval: its ends then vary by about a hundredth of its width."""
CONFIDENCE = 0.95


class Estimate(NamedTuple):
    """A statistic of some runs, and the interval that the bootstrap gives it."""

    value: float
    low: float | None
    """Lower end of the 95 % interval; None where a task has one run, by which nothing can be said about others."""
    high: float | None


def iqm(scores: ArrayLike, axis: int | None = None) -> Any:
    """Computes the interquartile mean: the mean without the lowest and the highest quarter of the runs."""
    from scipy.stats import trim_mean

    return trim_mean(scores, 0.25, axis=axis)


def probability_of_improvement(ours: Scores, theirs: Scores) -> Any:
    """Computes the probability that a run of ours ends better than one of theirs; a tie counts as half of one.

    Runs lie along the last axis. This is Mann and Whitney's U, divided by the number of pairs of runs.
    """
    differences = ours[..., :, None] - theirs[..., None, :]
    return (np.sign(differences) / 2 + 0.5).mean((-2, -1))


def mean_estimate(scores: Sequence[float]) -> Estimate:
    """Estimates the mean over runs."""
    return _estimate(lambda runs: np.mean(runs, -1), [scores])


def iqm_estimate(tasks: Sequence[Sequence[float]]) -> Estimate:
    """Estimates the interquartile mean over all runs of all tasks, whose scores are of one scale."""
    return _estimate(lambda *runs: iqm(np.concatenate(runs, -1), axis=-1), tasks)


def improvement_estimate(ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]]) -> Estimate:
    """Estimates the probability of improvement, as the mean over tasks, which are in one order on both sides."""

    def mean_probability(*runs: Scores) -> Any:
        pairs = zip(runs[: len(ours)], runs[len(ours) :], strict=True)
        return np.mean([probability_of_improvement(one, other) for one, other in pairs], 0)

    return _estimate(mean_probability, [*ours, *theirs])


def difference_estimate(ours: Sequence[float], theirs: Sequence[float]) -> Estimate:
    """Estimates by how much the mean of our runs is higher."""
    return _estimate(lambda one, other: np.mean(one, -1) - np.mean(other, -1), [ours, theirs])


def _estimate(statistic: Callable[..., Any], samples: Sequence[Sequence[float]]) -> Estimate:
    """Computes a statistic of samples and its percentile interval, each sample being drawn again by itself.

    The statistic takes arrays with the runs along the last axis.
    """
    from scipy.stats import bootstrap

    arrays = [np.asarray(sample, np.float64) for sample in samples]
    value = float(statistic(*arrays))
    if min(map(len, arrays)) < 2:
        return Estimate(value, None, None)
    drawn = bootstrap(
        arrays,
        lambda *runs, axis: statistic(*(np.moveaxis(run, axis, -1) for run in runs)),
        vectorized=True,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(0),  # so that the same runs give the same report
    )
    return Estimate(value, float(drawn.confidence_interval.low), float(drawn.confidence_interval.high))


def curve_interval(curves: Scores) -> tuple[Scores, Scores, Scores]:
    """Computes the mean of curves and its 95 % interval at each point; `curves` is (runs, points).

    Whole curves are drawn again, by which the interval's ends are as smooth as the curves. Both ends are the mean where
    there is one run.
    """
    mean = curves.mean(0)
    if len(curves) < 2:
        return mean, mean, mean
    drawn = np.random.default_rng(0).integers(len(curves), size=(2_000, len(curves)))
    counts = np.stack([(drawn == run).sum(1) for run in range(len(curves))], 1)
    low, high = np.quantile(counts @ curves / len(curves), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=0)
    return mean, low, high
