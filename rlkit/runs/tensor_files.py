"""Reading and writing safetensors files, which hold no code, and finding a model's file in a run folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rlkit.errors import RlkitError
from rlkit.runs.files import atomic

if TYPE_CHECKING:
    import torch

MODEL_FILE = "model.safetensors"


def write_tensors(
    file: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str], *, durable: bool = True
) -> None:
    """Writes tensors to `file`, whole or not at all, with `metadata` in its header.

    With `durable`, this waits until the file is on the disk. Raises RlkitError when it cannot be written.
    """
    from safetensors.torch import save_file

    # The tensors are copied, because safetensors refuses those that share memory.
    copies = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    with atomic(file, durable=durable) as temporary:
        save_file(copies, temporary, metadata=dict(metadata))


def read_tensors(file: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Reads the tensors of a file and the metadata in its header; raises RlkitError if it is missing or damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as model:
            return {name: model.get_tensor(name) for name in model.keys()}, model.metadata() or {}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise damaged(file, error) from error


def check_fit(
    file: Path, description: str, expected: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor]
) -> None:
    """Raises RlkitError unless the tensors `found` in `file` have the names and shapes of the `expected` ones.

    `description` is the message's word for that which determines the expected ones, such as a file beside `file`.
    """
    for name in sorted({*expected, *found}):
        want, have = (tuple(tensors[name].shape) if name in tensors else "missing" for tensors in (expected, found))
        if want != have:
            raise RlkitError(f"{file} does not fit {description}: '{name}' is {have} there and {want} in the model")


def damaged(file: Path, error: Exception) -> RlkitError:
    """Makes the error for a file whose contents cannot be read."""
    reason = " ".join(f"{error}".split()) or type(error).__name__
    return RlkitError(f"{file} is damaged: {type(error).__name__}: {reason}")
