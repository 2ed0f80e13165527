"""Checkpoints of companion runs, in safetensors and JSON, so that loading one executes nothing.

`last` and `best` hold the model: `model.safetensors`, and `model.json`, which says how to build it. `last` also has
`training.safetensors` with the whole state of the training, from which a run is resumed. That is one file, so that an
interrupted write cannot leave parts of two different states: it holds the best model too. A model's two files carry
one fingerprint.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from rlkit import __version__
from rlkit.errors import RlkitError, unknown
from rlkit.perception.inputs import Inputs
from rlkit.perception.loop import Numbers, Training
from rlkit.perception.models import MODELS, make_model
from rlkit.runs.files import json_text, make_folder, write_text
from rlkit.runs.reading import checked, checked_fields, damaged, parse_json, read_json, shown
from rlkit.runs.run_folder import RunFolder, find_checkpoint
from rlkit.runs.tensor_files import (
    MODEL_FILE,
    check_finite,
    check_fit,
    load_tensors,
    memory_for,
    open_tensors,
    read_tensors,
    write_tensors,
)

FORMAT = 1
DESCRIPTION_FILE = "model.json"
TRAINING_FILE = "training.safetensors"


@dataclass
class Description:
    """The values from which a model and its input stage are built again."""

    recipe: str
    model: str
    fields: dict[str, Any]
    """Arguments of the model's constructor, including those that the data set determined, such as `num_outputs`."""
    inputs: dict[str, Any]
    """Arguments of `Inputs`, the stage that prepares what the model takes."""
    classes: tuple[str, ...]
    """Names of the labels; empty where the model predicts values."""
    vocabulary: tuple[str, ...] = ()
    """Words in the order of their numbers; empty unless the model reads texts."""
    columns: tuple[str, ...] = ()
    """Names of the columns of a table, in their order; empty for other inputs."""
    data: dict[str, Any] = field(default_factory=dict)
    """Name and fields of the data set; empty in checkpoints of earlier versions."""

    def fingerprint(self) -> str:
        """Returns a digest that stands in the header of the weights, so that a description has no others'."""
        return hashlib.sha256(json_text(vars(self)).encode()).hexdigest()


def save_model(
    folder: Path, description: Description, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> None:
    """Writes a model's two files, each of them whole or not at all; `tensors` is the state of its task.

    Raises RlkitError when they cannot be written.
    """
    make_folder(folder)
    text = json_text({"format": FORMAT, "rlkit": __version__, **vars(description)})
    file = folder / DESCRIPTION_FILE
    if not file.is_file() or file.read_bytes() != text.encode():  # it stays in a run, which may be stopped between both
        write_text(file, text)
    write_tensors(folder / MODEL_FILE, tensors, {**metadata, "description": description.fingerprint()})


def save(trainer: Training, description: Description, folder: RunFolder) -> None:
    """Writes checkpoints/last, and checkpoints/best once validation has chosen a best model.

    It may be stopped between any two files: training.safetensors alone is what a run is resumed from, and each of the
    models is one of this run. When the best model has taken the last one's place, the last one was saved before.
    """
    if not trainer.holds_best:
        progress = {"steps": str(trainer.steps), "epoch": str(trainer.epoch)}
        last = folder.checkpoint("last")
        save_model(last, description, trainer.task.state_dict(), progress)
        tensors, numbers = trainer.state()
        write_tensors(last / TRAINING_FILE, tensors, {"state": json.dumps(numbers)})
    if trainer.best_state is not None:
        save_model(folder.checkpoint("best"), description, trainer.best_state, {"epoch": str(trainer.best_epoch)})


def resume(trainer: Training, description: Description, folder: RunFolder) -> None:
    """Restores the trainer to the state in which the run stopped; `description` is that of the data and model now.

    Raises RlkitError when the checkpoint is missing, damaged, or of another recipe, or when the data have changed.
    """
    file = folder.checkpoint("last") / TRAINING_FILE
    if not file.is_file():
        raise RlkitError(
            f"{folder.path} holds no run that could be resumed: checkpoints/last/{TRAINING_FILE} is missing"
        )
    with open_tensors(file) as header:
        mine = trainer.task.state_dict()
        name = f"{file}: state"
        numbers = _complete(parse_json(header.metadata.get("state", ""), file), Numbers, name)
        now = read_description(file.parent)[1]
        _check_data(folder, now, description, numbers.get("samples"), trainer.sizes)
        check_fit(header.below("task."), "the recipe", mine)
        if (best := header.below("best.")).tensors:
            check_fit(best, "the recipe", mine)
        tensors = load_tensors(header)
    check_finite(file, tensors, {f"task.{name}": tensor for name, tensor in mine.items()})
    try:
        trainer.load_state(tensors, numbers)
    except (KeyError, ValueError, TypeError, RuntimeError, AttributeError) as error:
        raise damaged(file, error) from error
    if trainer.best_epoch is not None and trainer.best_state is None:  # a checkpoint of an earlier version
        trainer.best_state = _read_best(folder, trainer.best_epoch)


def _check_data(
    folder: RunFolder, before: Description, now: Description, sizes: Sequence[int] | None, sizes_now: Sequence[int]
) -> None:
    """Raises RlkitError if the data set numbers classes, words or columns otherwise, or has changed its size."""
    for kind in ("classes", "vocabulary", "columns"):
        old, new = getattr(before, kind), getattr(now, kind)
        if old and old != new:
            raise RlkitError(
                f"{folder.path} cannot be resumed: the {kind} of its data have changed: {difference(old, new)}; put "
                "the data back, or start a new run"
            )
    if sizes is not None and list(sizes) != list(sizes_now) and json.dumps(before.data) == json.dumps(now.data):
        was, are = (" + ".join(f"{size:,}" for size in some) for some in (sizes, sizes_now))
        raise RlkitError(
            f"{folder.path} cannot be resumed: its data set had {was} samples (to learn, to validate, to test) and now "
            f"has {are}, so that some of the test may have been learned from; put the data back, or start a new run"
        )


def difference(old: Sequence[str], new: Sequence[str]) -> str:
    """Returns a phrase on what is new in a list of names, what is gone, or where its order differs."""
    parts = [
        f"{word} {', '.join(names[:5])}{' …' if len(names) > 5 else ''}"
        for word, names in (
            ("new:", [name for name in new if name not in set(old)]),
            ("gone:", [name for name in old if name not in set(new)]),
        )
        if names
    ]
    if not parts:
        place = next(i for i in range(len(old)) if old[i : i + 1] != new[i : i + 1])
        parts = [f"number {place} was {old[place]} and is {new[place]}"]
    return ", ".join(parts)


def _read_best(folder: RunFolder, epoch: int) -> dict[str, Tensor]:
    """Reads the best model of a run that keeps it in a folder of its own.

    Raises RlkitError if it is that of another epoch than `epoch`, because the run was killed between the two.
    """
    file = folder.checkpoint("best") / MODEL_FILE
    tensors, metadata = read_tensors(file)
    if metadata.get("epoch") != str(epoch):
        raise RlkitError(
            f"{folder.path} cannot be resumed: its best epoch was {epoch}, and {file} is of epoch "
            f"{metadata.get('epoch')}: the run was killed while it wrote them"
        )
    return tensors


def read_description(path: str | Path) -> tuple[Path, Description]:
    """Returns the checkpoint folder at `path` and the description in it; of a run folder the best, else the last.

    Raises RlkitError when there is no checkpoint, or it is damaged.
    """
    folder = find_checkpoint(path)
    file = folder / DESCRIPTION_FILE
    if not os.path.lexists(file):
        raise RlkitError(f"{folder} holds no companion model: {DESCRIPTION_FILE} is missing beside {MODEL_FILE}")
    found = dict(checked(read_json(file), dict[str, Any], f"{file}"))
    version = found.pop("format", None)
    if isinstance(version, bool) or version != FORMAT:
        raise RlkitError(f"{file} has format {shown(version)}; this version of rlkit reads format {FORMAT}")
    found.pop("rlkit", None)
    description = described_by(found, f"{file}")
    _check_names(file, description)
    return folder, description


def described_by(found: Any, name: str) -> Description:
    """Makes the description that a file holds, which messages call `name`; raises RlkitError for wrong types."""
    fields = _complete(found, Description, name)
    names = {key: tuple(fields.get(key, ())) for key in ("classes", "vocabulary", "columns")}
    return Description(**{**fields, **names})


def _complete(found: Any, kind: type[Any], name: str) -> dict[str, Any]:
    """Returns the fields of a dataclass; raises RlkitError for wrong types, and where one without a default is gone."""
    fields = checked_fields(found, kind, name)
    for each in dataclasses.fields(kind):
        if each.name not in fields and each.default is MISSING and each.default_factory is MISSING:
            raise RlkitError(f"{name} is damaged: {each.name} is missing")
    return fields


def _check_names(file: Path, description: Description) -> None:
    """Raises RlkitError if there are more or fewer classes or words than the model tells apart."""
    outputs = description.fields.get("num_outputs")
    for names, count, kind in (
        (description.classes, outputs if outputs != 1 else 2, "classes"),  # one output tells two apart
        (description.vocabulary, description.fields.get("vocabulary_size"), "words"),
    ):
        if names and count is not None and len(names) != count:
            raise RlkitError(f"{file} is damaged: it names {len(names)} {kind}, and its model has {count}")


def build_model(description: Description) -> tuple[nn.Module, Inputs]:
    """Builds the described model with random weights, and its input stage.

    Raises RlkitError for unknown names, and for values from which neither can be built.
    """
    fields, inputs = description.fields, description.inputs
    if description.model in MODELS:
        fields = _arguments(MODELS[description.model], fields, f"model {description.model}")
    known = ("mean", "std", "resize", "limits")
    for name in inputs:
        if name not in known:
            raise unknown("field of a model's inputs", shown(name).strip("'"), known)
    inputs = _arguments(Inputs, inputs, "inputs")
    mean, std, resize = inputs.get("mean", []), inputs.get("std", []), inputs.get("resize")
    if len(mean) != len(std) or not all(map(math.isfinite, [*mean, *std])) or 0 in std:
        raise RlkitError("inputs: expected as many mean as std, all of them finite, and no std of 0")
    shape = fields.get("input_shape")
    if resize is not None and shape is not None and len(shape) == 3 and shape[1:] != [resize, resize]:
        raise RlkitError(f"inputs.resize={resize} does not fit the model's input_shape={shape}")
    return make_model(description.model, **fields), Inputs(**inputs)


def _arguments(kind: type[Any], values: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Returns the arguments of a class's constructor; raises RlkitError for wrong types."""
    hints = typing.get_type_hints(kind.__init__)
    return {key: checked(value, hints.get(key, Any), f"{name}: {key}") for key, value in values.items()}


def load_model(path: str | Path) -> tuple[nn.Module, Inputs, Description]:
    """Loads the model at `path`, in evaluation mode, with its input stage and its description.

    Raises RlkitError when there is no checkpoint, when it is damaged, or when this version does not know its model.
    """
    folder, description = read_description(path)
    with open_tensors(folder / MODEL_FILE) as header:
        if header.metadata.get("description", description.fingerprint()) != description.fingerprint():
            raise RlkitError(
                f"{folder}: {MODEL_FILE} is of another model than the one that {DESCRIPTION_FILE} describes"
            )
        try:
            with memory_for(header):
                model, inputs = build_model(description)
        except RlkitError as error:
            raise RlkitError(f"{folder / DESCRIPTION_FILE}: {error}") from error
        check_fit(header.below("model."), DESCRIPTION_FILE, model.state_dict())
        tensors = load_tensors(header)
    found = {name.removeprefix("model."): tensor for name, tensor in tensors.items() if name.startswith("model.")}
    check_finite(header.file, found, model.state_dict())
    model.load_state_dict(found)
    return model.eval(), inputs.eval(), description
