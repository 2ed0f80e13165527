"""Reading and writing safetensors files, which hold no code.

The header of a file that rlkit wrote has a digest of all that the file holds. So a file that was damaged later is told
from one that is whole, though every bit pattern is some number.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from rlkit.errors import RlkitError
from rlkit.runs.files import atomic
from rlkit.runs.reading import checked, damaged, open_file, parse_json

if TYPE_CHECKING:
    import torch

MODEL_FILE = "model.safetensors"
DIGEST = "digest"
"""The key in a header of the digest of the tensors and of the other metadata. Files of earlier versions have none."""
LARGEST_HEADER = 2**22
"""Bytes of the largest header that is read."""
DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}
"""Torch's names of the types in headers, of those that networks have."""

SPARE_BYTES, COPIES, BYTES_PER_TENSOR = 2**24, 16, 2**12
"""The memory that building a model may take: this much, this many times its file, and this much for each tensor."""
FACTORIES = ("empty", "zeros", "ones", "full", "rand", "randn", "eye", "arange", "linspace", "empty_strided")
"""Functions of torch that take memory."""


@dataclass
class Header:
    """All that a file says about its tensors, before any of them is read."""

    file: Path
    tensors: dict[str, tuple[str, tuple[int, ...]]]
    """Type and shape of each tensor."""
    metadata: dict[str, str]
    size: int
    """Bytes of the whole file."""
    opened: BinaryIO
    """The file itself. Its tensors are read from what was opened, as another one may take its place meanwhile."""

    def below(self, prefix: str) -> Header:
        """Returns the header of those tensors whose names start with `prefix`, which is taken off."""
        inner = {name.removeprefix(prefix): each for name, each in self.tensors.items() if name.startswith(prefix)}
        return Header(self.file, inner, self.metadata, self.size, self.opened)


def write_tensors(
    file: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str], *, durable: bool = True
) -> None:
    """Writes tensors to `file`, whole or not at all, with `metadata` and a digest in its header.

    With `durable`, this waits until the file is on the disk. Raises RlkitError when it cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    # The tensors are copied, because safetensors refuses those that share memory.
    copies = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    header = {**_without_digest(metadata), DIGEST: _digest(copies, metadata)}
    with atomic(file, durable=durable) as temporary:
        try:
            save_file(copies, temporary, metadata=header)
        except SafetensorError as error:  # for every error of the disk
            raise RlkitError(f"cannot write {file}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """The system's words in an error of safetensors, such as `No space left on device`."""
    text = " ".join(f"{error}".split())
    return text.partition("I/O error: ")[2].partition(" (os error")[0] or text


@contextmanager
def open_tensors(file: Path) -> Iterator[Header]:
    """Opens a file and reads what it says about its tensors; raises RlkitError if it is missing or damaged."""
    with open_file(file) as opened:
        length = int.from_bytes(opened.read(8), "little")
        size = os.fstat(opened.fileno()).st_size
        if not 0 < length <= min(size - 8, LARGEST_HEADER):
            raise damaged(file, f"its header of {length:,} bytes is cut off, or too long")
        try:
            text = opened.read(length).decode("utf-8")
        except UnicodeDecodeError as error:
            raise damaged(file, "its header is not in UTF-8") from error
        name = f"{file} is damaged: its header"
        entries = checked(parse_json(text, file), dict[str, dict[str, Any]], name)
        metadata = checked(entries.pop("__metadata__", {}), dict[str, str], name)
        tensors = {}
        for key, entry in entries.items():
            dtype = checked(entry.get("dtype"), str, f"{name}: dtype of {key!a}")
            shape = checked(entry.get("shape"), list[int], f"{name}: shape of {key!a}")
            tensors[key] = (DTYPES.get(dtype, dtype), tuple(shape))
        yield Header(file, tensors, metadata, size, opened)


def read_tensors(file: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Reads the tensors of a file and the metadata in its header; raises RlkitError if it is missing or damaged."""
    with open_tensors(file) as header:
        return load_tensors(header), _without_digest(header.metadata)


def load_tensors(header: Header) -> dict[str, torch.Tensor]:
    """Reads the tensors of an open file, whose header was found to fit; raises RlkitError if they are damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        header.opened.seek(0)
        tensors = load(header.opened.read())
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise damaged(header.file, error) from error
    if header.metadata.get(DIGEST, digest := _digest(tensors, header.metadata)) != digest:
        raise damaged(header.file, "its contents are not those that were written: their digest differs")
    return tensors


def check_fit(header: Header, description: str, expected: Mapping[str, torch.Tensor]) -> None:
    """Raises RlkitError unless the tensors in a file have the names, shapes and types of the `expected` ones.

    `description` is the message's word for that which determines the expected ones, such as a file beside the file.
    """
    for name in sorted({*expected, *header.tensors}):
        have, want = header.tensors.get(name), _kind(expected[name]) if name in expected else None
        if want == have:
            continue
        if want is None or have is None or want[1] != have[1]:
            found, due = (each[1] if each else "missing" for each in (have, want))
        else:
            found, due = have[0], want[0]
        raise RlkitError(f"{header.file} does not fit {description}: {name!a} is {found} there and {due} in the model")


def check_finite(file: Path, tensors: Mapping[str, torch.Tensor], fresh: Mapping[str, torch.Tensor]) -> None:
    """Raises RlkitError for a number that is infinite or not a number, unless a model has it from the beginning."""
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or bool(tensor.isfinite().all()):
            continue
        wrong = ~tensor.isfinite() & (tensor != fresh[name].to(tensor.device) if name in fresh else True)
        if bool(wrong.any()):
            value = float(tensor[wrong].flatten()[0])
            raise damaged(file, f"{name!a} holds {value}: expected finite numbers")


def _without_digest(metadata: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in metadata.items() if name != DIGEST}


def _kind(tensor: torch.Tensor) -> tuple[str, tuple[int, ...]]:
    return str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape)


def _digest(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> str:
    import torch

    digest = hashlib.sha256(json.dumps(_without_digest(metadata), sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(f"\n{name} {_kind(tensors[name])}\n".encode())
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


@contextmanager
def memory_for(header: Header) -> Iterator[None]:
    """A context in which a model is built that a file beside the header's describes.

    Raises RlkitError when torch is about to take more memory than the described model could need, since all of its
    tensors are in the header's file.
    """
    from torch.overrides import TorchFunctionMode

    class Limit(TorchFunctionMode):
        left = SPARE_BYTES + COPIES * header.size

        def __torch_function__(self, func: Any, types: Any, args: Iterable[Any] = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            if getattr(func, "__name__", "") in FACTORIES:
                size = func(*args, **_meta(kwargs))
                self.left -= size.numel() * size.element_size() + BYTES_PER_TENSOR
                if self.left < 0:
                    raise RlkitError(
                        f"{header.file} does not fit the description beside it: that is of a model of many more "
                        f"numbers than its {header.size:,} bytes can hold"
                    )
            return func(*args, **kwargs)

    with Limit():
        yield


def _meta(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The keywords of a function that makes a tensor, for one without memory."""
    kept = {name: value for name, value in kwargs.items() if name not in ("generator", "out", "pin_memory")}
    return {**kept, "device": "meta"}
