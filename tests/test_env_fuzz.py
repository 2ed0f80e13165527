"""A fuzz of the environment API: with any space and any fault at any step, training works, or ends in one line."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.mark.parametrize("first", range(0, 200, 25))
def test_each_case_trains_or_ends_in_one_line(first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    fuzz: Any = importlib.import_module("env_fuzz")
    rows = [fuzz.run(number) for number in range(first, first + 25)]
    assert [row for row in rows if row["outcome"] not in ("trained", "one line")] == []


def test_a_case_is_the_same_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    fuzz: Any = importlib.import_module("env_fuzz")
    assert fuzz.drawn(7) == fuzz.drawn(7)
    assert fuzz.run(7) == fuzz.run(7)
