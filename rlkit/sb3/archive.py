"""The zip file of a Stable-Baselines3 model: its settings as plain data and its tensors, without executing anything."""

from __future__ import annotations

import base64
import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlkit.errors import RlkitError
from rlkit.runs.reading import checked, damaged, open_file, parse_json, shown
from rlkit.sb3.pickles import PickleError, read_pickle
from rlkit.system.user_paths import user_path

if TYPE_CHECKING:
    import torch

VERSION, SETTINGS, TENSORS = "_stable_baselines3_version", "data", "policy.pth"
"""Names in the zip: the version that wrote it, JSON with pickles in it, and what `torch.save` made of the policy."""
READABLE_VERSIONS = ("1", "2")
"""Major versions of Stable-Baselines3 whose models can be read."""
LARGEST_SETTINGS = 2**26
"""Bytes of the largest `data`, which holds the last observations."""
PICKLED = ":serialized:"
"""The key in the JSON of a value's pickle, in base64."""


@dataclass(frozen=True)
class Archive:
    """The contents of a model's file."""

    file: Path
    version: str
    settings: Mapping[str, Any]
    """Values by name as they are in the JSON: pickled ones are a dict with their pickle and a description in words."""
    tensors: Mapping[str, torch.Tensor]
    """The policy's tensors by SB3's names, on the CPU."""
    size: int
    """Bytes of the file."""

    def get(self, name: str, default: Any = None) -> Any:
        """Returns a setting, its pickle read as plain data; `default` if there is none of that name."""
        value = self.settings.get(name, default)
        if not isinstance(value, Mapping) or PICKLED not in value:
            return value
        try:
            return read_pickle(base64.b64decode(checked(value[PICKLED], str, f"{self.file}: {name}"), validate=True))
        except ValueError as error:  # a PickleError, or text that is not base64
            reason = error if isinstance(error, PickleError) else "its pickle is not in base64"
            raise damaged(self.file, f"{name}: {reason}") from error


def read_archive(path: str | Path) -> Archive:
    """Reads the zip file that SB3's `save` wrote, whose ending may be left out as there.

    Raises RlkitError for a file that is missing, damaged, not SB3's, or of a version that is not known.
    """
    file = user_path(path)
    if not file.exists() and file.with_name(f"{file.name}.zip").exists():
        file = file.with_name(f"{file.name}.zip")
    with open_file(file) as opened:
        content = opened.read()
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            version = _read_version(archive, file)
            settings = parse_json(_read(archive, SETTINGS, LARGEST_SETTINGS, file).decode("utf-8"), file)
            tensors = _read(archive, TENSORS, 4 * len(content) + 2**20, file)
    except (zipfile.BadZipFile, zipfile.LargeZipFile) as error:
        raise _not_ours(file, "it is no zip file") from error
    except UnicodeDecodeError as error:
        raise damaged(file, f"{SETTINGS} is not in UTF-8") from error
    if not isinstance(settings, dict):
        raise damaged(file, f"{SETTINGS} is {shown(settings)}: expected names and values")
    return Archive(file, version, settings, _read_tensors(tensors, file), len(content))


def _not_ours(file: Path, reason: str) -> RlkitError:
    return RlkitError(f"{file} is no model of Stable-Baselines3: {reason}; expected what its model.save(…) writes")


def _read_version(archive: zipfile.ZipFile, file: Path) -> str:
    for name in (SETTINGS, TENSORS, VERSION):
        if name not in archive.namelist():
            raise _not_ours(file, f"there is no {name} in it")
    version = _read(archive, VERSION, 100, file).decode("ascii", errors="replace").strip()
    if version.partition(".")[0] not in READABLE_VERSIONS:
        known = " and ".join(READABLE_VERSIONS)
        raise RlkitError(f"{file} was saved by Stable-Baselines3 {shown(version)}; versions {known} can be read")
    return version


def _read(archive: zipfile.ZipFile, name: str, limit: int, file: Path) -> bytes:
    """Reads a file in the zip; raises RlkitError if it has more than `limit` bytes, so that none is blown up."""
    size = archive.getinfo(name).file_size
    if size > limit:
        raise damaged(file, f"{name} has {size:,} bytes: expected at most {limit:,}")
    try:
        with archive.open(name) as opened:
            return opened.read(limit + 1)
    except Exception as error:  # encrypted, cut off, packed in an unknown way, or with a wrong checksum
        raise damaged(file, error) from error


def _read_tensors(content: bytes, file: Path) -> dict[str, torch.Tensor]:
    """Reads what `torch.save` wrote, by torch's reader that builds tensors alone."""
    import torch

    try:
        found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # of a file of any kind; the first line says what it holds beside tensors
        raise damaged(file, f"{TENSORS} holds more or less than tensors: {str(error).partition(chr(10))[0]}") from error
    if not isinstance(found, Mapping):
        raise damaged(file, f"{TENSORS} is {shown(found)}: expected tensors by name")
    for name, tensor in found.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor) or not _is_whole(tensor):
            raise damaged(file, f"{TENSORS}: {shown(name)} is no tensor of numbers")
    return dict(found)


def _is_whole(tensor: torch.Tensor) -> bool:
    """Returns True for a tensor in memory, of which every number is there."""
    import torch

    plain = tensor.layout is torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
    return plain and tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()
