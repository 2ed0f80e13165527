"""Checkpoints of companion runs, in safetensors and JSON, so that loading one executes nothing.

`last` and `best` hold the model: `model.safetensors`, and `model.json`, which says how to build it. `last` also has
`training.safetensors` with the whole state of the training, from which a run is resumed. That is one file, so that an
interrupted write cannot leave parts of two different states.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from rlkit import __version__
from rlkit.errors import RlkitError
from rlkit.perception.inputs import Inputs
from rlkit.perception.loop import Training
from rlkit.perception.models import make_model
from rlkit.runs.files import make_folder, write_json
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


def save_model(
    folder: Path, description: Description, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> None:
    """Writes a model's two files, each of them whole or not at all; `tensors` is the state of its task.

    Raises RlkitError when they cannot be written.
    """
    make_folder(folder)
    write_json(folder / DESCRIPTION_FILE, {"format": FORMAT, "rlkit": __version__, **vars(description)})
    write_tensors(folder / MODEL_FILE, tensors, metadata)


def save(trainer: Training, description: Description, folder: RunFolder) -> None:
    """Writes checkpoints/last, and checkpoints/best once validation has chosen a best model."""
    progress = {"steps": str(trainer.steps), "epoch": str(trainer.epoch)}
    last = folder.checkpoint("last")
    save_model(last, description, trainer.task.state_dict(), progress)
    tensors, numbers = trainer.state()
    write_tensors(last / TRAINING_FILE, tensors, {"state": json.dumps(numbers)})
    if trainer.best_state is not None:
        save_model(folder.checkpoint("best"), description, trainer.best_state, {"epoch": str(trainer.best_epoch)})


def resume(trainer: Training, folder: RunFolder) -> None:
    """Restores the trainer to the state in which the run stopped.

    Raises RlkitError when the checkpoint is missing, damaged, or of another recipe.
    """
    file = folder.checkpoint("last") / TRAINING_FILE
    if not file.is_file():
        raise RlkitError(
            f"{folder.path} holds no run that could be resumed: checkpoints/last/{TRAINING_FILE} is missing"
        )
    tensors, metadata = read_tensors(file)
    mine = {f"task.{name}": tensor for name, tensor in trainer.task.state_dict().items()}
    check_fit(file, "the recipe", mine, {name: tensors[name] for name in tensors if name.startswith("task.")})
    try:
        trainer.load_state(tensors, json.loads(metadata["state"]))
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        raise damaged(file, error) from error
    best = folder.checkpoint("best") / MODEL_FILE
    if trainer.best_epoch is not None:
        trainer.best_state = read_tensors(best)[0]


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
        return folder, Description(
            **{**found, **{name: tuple(found.get(name, ())) for name in ("classes", "vocabulary")}}
        )
    except FileNotFoundError as error:
        raise RlkitError(
            f"{folder} holds no companion model: {DESCRIPTION_FILE} is missing beside {MODEL_FILE}"
        ) from error
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise damaged(file, error) from error


def build_model(description: Description) -> tuple[nn.Module, Inputs]:
    """Builds the described model with random weights, and its input stage; raises RlkitError for unknown names."""
    return make_model(description.model, **description.fields), Inputs(**description.inputs)


def load_model(path: str | Path) -> tuple[nn.Module, Inputs, Description]:
    """Loads the model at `path`, in evaluation mode, with its input stage and its description.

    Raises RlkitError when there is no checkpoint, when it is damaged, or when this version does not know its model.
    """
    folder, description = read_description(path)
    tensors, _ = read_tensors(folder / MODEL_FILE)
    try:
        model, inputs = build_model(description)
    except TypeError as error:
        raise damaged(folder / DESCRIPTION_FILE, error) from error
    found = {name.removeprefix("model."): tensor for name, tensor in tensors.items() if name.startswith("model.")}
    check_fit(folder / MODEL_FILE, DESCRIPTION_FILE, model.state_dict(), found)
    model.load_state_dict(found)
    return model.eval(), inputs.eval(), description
