"""rliable's numbers for runs that are drawn at random, which the tests of rlkit/maths/statistics.py agree with.

rliable 1.2 does not import beside pandas 3, so it is not among rlkit's dependencies; in an environment of its own:

    python3 -m venv /tmp/rliable && /tmp/rliable/bin/pip install rliable==1.2.0 "pandas<3"
    /tmp/rliable/bin/python benchmarks/rliable_numbers.py > tests/fixtures/rliable.json
"""

from __future__ import annotations

import importlib
import json
from typing import Any

import numpy as np

REPETITIONS = 50_000
"""rliable's own number of bootstrap samples."""


def main() -> None:
    """Prints the runs and rliable's estimates of them as JSON."""
    library, metrics = (importlib.import_module(f"rliable.{name}") for name in ("library", "metrics"))
    rng = np.random.default_rng(7)
    cases = []
    for runs, tasks, shift in ((5, 1, 0.5), (10, 1, 0.0), (10, 3, 0.3), (20, 6, 0.1)):
        ours, theirs = rng.gamma(2.0, 1.0, (runs, tasks)) + shift, rng.gamma(2.0, 1.0, (runs + 1, tasks))
        theirs[0, 0] = ours[0, 0]  # a tie
        random_state = np.random.RandomState(0)
        found: dict[str, Any] = {}
        for name, scores, statistic in (
            ("iqm", {"ours": ours}, metrics.aggregate_iqm),
            ("mean", {"ours": ours}, metrics.aggregate_mean),
            ("improvement", {"pair": (ours, theirs)}, metrics.probability_of_improvement),
        ):
            values, intervals = library.get_interval_estimates(
                scores,
                lambda *sides, statistic=statistic: np.array([statistic(*sides)]),
                reps=REPETITIONS,
                random_state=random_state,
            )
            (key,) = scores
            low, high = np.asarray(intervals[key])[:, 0]
            found[name] = {"value": float(values[key][0]), "low": float(low), "high": float(high)}
        cases.append({"ours": ours.T.tolist(), "theirs": theirs.T.tolist(), **found})
    print(json.dumps({"repetitions": REPETITIONS, "cases": cases}, indent=1))


if __name__ == "__main__":
    main()
