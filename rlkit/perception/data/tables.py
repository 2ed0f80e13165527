"""Data sets of columns of numbers, such as the fuel consumption of cars."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from rlkit.errors import RlkitError
from rlkit.perception.data.readers import read_lines, read_table
from rlkit.perception.data.root import locate
from rlkit.perception.data.samples import Data, TensorSamples, column_statistics, split

COLUMNS = ("cylinders", "displacement", "horsepower", "weight", "acceleration", "year")
ORIGINS = ("USA", "Europe", "Japan")
ORIGIN_NUMBERS = {origin.lower(): float(number) for number, origin in enumerate(ORIGINS, 1)}
"""Numbers of the ORIGINS, for files that have their names instead."""
RANGES = {"mpg": (5, 60), "cylinders": (2, 16), "weight": (1000, 10000), "origin": (1, 3)}


def auto_mpg(*, data_root: Path | None = None, validation: float = 0.1, test: float = 0.2, split_seed: int = 0) -> Data:
    """Miles per gallon of 392 cars of 1970 to 1982 (Quinlan 1993), from six numbers and a one-hot origin.

    The file is the authors' `auto-mpg/auto-mpg.data`, of whose 398 cars the six without horsepower are left out, or
    else `auto-mpg/auto-mpg.csv`. If that has no header, its columns are the six numbers, origin, name and mpg.
    """
    folder = locate(data_root, "auto-mpg", [])
    original = folder / "auto-mpg.data"
    file = original if original.exists() else locate(data_root, "auto-mpg", ["auto-mpg.csv"]) / "auto-mpg.csv"
    rows = read_cars(file)
    features = np.array([[row[name] for name in COLUMNS] + _one_hot(row["origin"]) for row in rows], np.float32)
    inputs, targets = torch.from_numpy(features), torch.tensor([[row["mpg"]] for row in rows])
    testing, validating, training = split(len(rows), [test, validation], split_seed)
    part = [TensorSamples(inputs[indices], targets[indices]) for indices in (training, validating, testing)]
    spread = column_statistics(part[0].inputs)
    return Data(
        train=part[0],
        validation=part[1] if len(validating) else None,
        test=part[2],
        input_shape=(len(COLUMNS) + len(ORIGINS),),
        columns=(*COLUMNS, *ORIGINS),
        mean=spread.mean,
        std=spread.std,
        limits=spread.limits,
    )


def read_cars(path: Path) -> list[dict[str, float]]:
    """Reads the numbers of each car by name: `mpg`, the COLUMNS, and `origin` from 1 to 3.

    In a CSV file, `origin` can be a name of ORIGINS. Raises RlkitError, which names the row, for a row with other
    columns or with numbers that no car has.
    """
    if path.suffix == ".data":
        table = _authors_table(path)
    else:
        names = ["mpg", *COLUMNS, "origin"]
        aliases = {"model year": "year", "model_year": "year"}
        table = read_table(path, names, headerless=(*COLUMNS, "origin", "name", "mpg"), aliases=aliases)
    cars = []
    for number, values in enumerate(table, 1):
        if values["horsepower"].strip().lower() in ("?", "", "nan", "na"):
            continue
        try:
            car = {name: to_number(values[name]) for name in ("mpg", *COLUMNS)}
            car["origin"] = ORIGIN_NUMBERS.get(values["origin"].strip().lower()) or to_number(values["origin"])
        except ValueError as error:
            raise RlkitError(f"{path}: car {number}: expected numbers in {', '.join(COLUMNS)}: {error}") from error
        for name, value in car.items():
            if not math.isfinite(value):
                raise RlkitError(f"{path}: car {number} has {name} {value}: expected a number")
        for name, (low, high) in RANGES.items():
            if not low <= car[name] <= high or (name == "origin" and not car[name].is_integer()):
                raise RlkitError(f"{path}: car {number} has {name} {car[name]:g}: expected {low} to {high}")
        cars.append(car)
    if not cars:
        raise RlkitError(f"{path} has no cars")
    return cars


def _one_hot(origin: float) -> list[float]:
    return [float(origin == i + 1) for i in range(len(ORIGINS))]


def to_number(cell: str) -> float:
    """Returns the number in a cell, whose decimals may have a comma; raises ValueError for anything else."""
    return float(cell.replace(",", ".") if "." not in cell else cell)


def _authors_table(path: Path) -> Iterator[dict[str, str]]:
    """Yields the cars of the authors' file, whose numbers stand between spaces, before a tab and the car's name."""
    names = ("mpg", *COLUMNS, "origin")
    lines = (line for line in read_lines(path) if line.strip())
    for number, line in enumerate(lines, 1):
        cells = line.split("\t")[0].split()
        if len(cells) != len(names):
            raise RlkitError(f"{path}: car {number} has {len(cells)} columns instead of {len(names)}; truncated?")
        yield dict(zip(names, cells, strict=True))
