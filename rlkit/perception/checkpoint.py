"""Checkpoints of companion runs, in safetensors and JSON, so that loading one executes nothing.

`last` and `best` hold the model: `model.safetensors`, and `model.json`, which says how to build it. `last` also has
`training.safetensors` with the whole state of the training, from which a run is resumed. That is one file, so that an
interrupted write cannot leave parts of two different states: it holds the best model too. A model's two files carry
one fingerprint.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from rlkit import __version__
from rlkit.errors import RlkitError
from rlkit.perception.inputs import Inputs
from rlkit.perception.loop import Training
from rlkit.perception.models import make_model
from rlkit.runs.files import json_text, make_folder, write_text
from rlkit.runs.run_folder import RunFolder, find_checkpoint
from rlkit.runs.tensor_files import MODEL_FILE, check_fit, damaged, read_tensors, write_tensors

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
    models is one of this run.
    """
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
    tensors, metadata = read_tensors(file)
    mine = {f"task.{name}": tensor for name, tensor in trainer.task.state_dict().items()}
    try:
        numbers = json.loads(metadata["state"])
        _check_data(folder, read_description(file.parent)[1], description, numbers.get("samples"), trainer.sizes)
        check_fit(file, "the recipe", mine, {name: tensors[name] for name in tensors if name.startswith("task.")})
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
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        version = found.pop("format", None)
        if version != FORMAT:
            raise RlkitError(f"{file} has format {version!r}; this version of rlkit reads format {FORMAT}")
        found.pop("rlkit")
        names = {name: tuple(found.get(name, ())) for name in ("classes", "vocabulary", "columns")}
        description = Description(**{**found, **names})
        _check_names(file, description)
        return folder, description
    except FileNotFoundError as error:
        raise RlkitError(
            f"{folder} holds no companion model: {DESCRIPTION_FILE} is missing beside {MODEL_FILE}"
        ) from error
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise damaged(file, error) from error


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
    """Builds the described model with random weights, and its input stage; raises RlkitError for unknown names."""
    return make_model(description.model, **description.fields), Inputs(**description.inputs)


def load_model(path: str | Path) -> tuple[nn.Module, Inputs, Description]:
    """Loads the model at `path`, in evaluation mode, with its input stage and its description.

    Raises RlkitError when there is no checkpoint, when it is damaged, or when this version does not know its model.
    """
    folder, description = read_description(path)
    tensors, metadata = read_tensors(folder / MODEL_FILE)
    if metadata.get("description", description.fingerprint()) != description.fingerprint():
        raise RlkitError(f"{folder}: {MODEL_FILE} is of another model than the one that {DESCRIPTION_FILE} describes")
    try:
        model, inputs = build_model(description)
    except TypeError as error:
        raise damaged(folder / DESCRIPTION_FILE, error) from error
    found = {name.removeprefix("model."): tensor for name, tensor in tensors.items() if name.startswith("model.")}
    check_fit(folder / MODEL_FILE, DESCRIPTION_FILE, model.state_dict(), found)
    model.load_state_dict(found)
    return model.eval(), inputs.eval(), description
