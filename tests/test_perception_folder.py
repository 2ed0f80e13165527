"""Folders of images: whose class each image is, whatever appears or vanishes, and pictures as they are seen."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from rlkit.errors import RlkitError
from rlkit.perception.data.folder import image_folder, is_hidden, read_image
from rlkit.perception.data.samples import Data, TensorSamples

COLORS = {"birds": 50, "cats": 100, "dogs": 150, "eels": 200}
NUMBERED = ["path,label", *(f"{name}/{i}.png,{label}" for label, name in enumerate(("cats", "dogs")) for i in range(6))]
"""The index of an earlier version, which had numbers of the classes."""


def write_class(folder: Path, name: str, count: int = 6) -> None:
    """Images of one grey level per class, so that each tells its class."""
    (folder / name).mkdir(parents=True)
    for i in range(count):
        Image.new("RGB", (8, 8), (COLORS[name],) * 3).save(folder / name / f"{i}.png")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("cats", "dogs"):
        write_class(tmp_path / "mine", name)
    return tmp_path / "mine"


def load(folder: Path) -> Data:
    return image_folder(data_root=folder.parent, folder=folder.name, image_size=4)


def check(data: Data) -> int:
    """Every image has the name of its class; returns the number of images."""
    total = 0
    for part in (data.train, data.validation, data.test):
        assert isinstance(part, TensorSamples)
        for image, label in zip(part.inputs, part.targets.tolist(), strict=True):
            assert int(image.float().mean()) == COLORS[data.classes[label]]
        total += len(part)
    return total


@pytest.mark.parametrize("index", [None, NUMBERED, ["path,class", "dogs/3.png,dogs"]])
def test_a_class_that_appears_shifts_no_name(folder: Path, index: list[str] | None) -> None:
    if index:
        (folder / "images.csv").write_text("\n".join(index) + "\n")
    assert check(load(folder)) == 12
    for name, position in (("birds", 0), ("eels", 3)):
        write_class(folder, name)
        data = load(folder)
        assert data.classes[position] == name
        assert check(data) == (18 if name == "birds" else 24)
        assert data.notes == (
            f"6 images are new since images.csv was written, such as {name}/0.png, and the class {name}",
        )
    assert load(folder).notes == ()  # they are in the index now
    assert (folder / "images.csv").read_text().count("\n") == 25


SPELLINGS = {
    "windows": r"{name}\{i}.png",
    "windows with a dot": r".\{name}\{i}.png",
    "find": "./{name}/{i}.png",
    "twice a slash": "{name}//{i}.png",
    "up and down": "{name}/../{name}/{i}.png",
    "from the system's root": "{root}/{name}/{i}.png",
}


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_no_image_counts_twice_however_its_path_is_written(
    spelling: str, delimiter: str, mark: str, folder: Path
) -> None:
    paths = [
        (SPELLINGS[spelling].format(name=name, i=i, root=folder), name) for name in ("cats", "dogs") for i in range(5)
    ]
    rows = [delimiter.join(row) for row in [("path", "class"), *paths]]
    (folder / "images.csv").write_text(mark + "\r\n".join(rows), encoding="utf-8", newline="")
    data = load(folder)
    assert check(data) == 12
    assert data.notes == ("2 images are new since images.csv was written, such as cats/5.png",)


def test_a_numbered_index_of_other_folders_is_not_guessed_at(folder: Path) -> None:
    (folder / "images.csv").write_text("\n".join(NUMBERED) + "\n")
    write_class(folder, "birds")  # before the index was read by this version
    data = load(folder)
    assert (data.classes, check(data)) == (("birds", "cats", "dogs"), 18)


def test_new_images_are_read_and_missing_ones_are_named(folder: Path) -> None:
    load(folder)
    shutil.copy(folder / "dogs/0.png", folder / "dogs/new.png")
    data = load(folder)
    assert (check(data), data.notes) == (13, ("1 images are new since images.csv was written, such as dogs/new.png",))
    shutil.rmtree(folder / "cats")
    with pytest.raises(RlkitError, match=r"names 6 images that are missing, such as cats/0.png: put them back, or rem"):
        load(folder)


def test_what_systems_leave_behind_is_no_class_and_no_image(folder: Path) -> None:
    for name in (".ipynb_checkpoints", "__MACOSX", "@eaDir", ".git", "cats/.ipynb_checkpoints"):
        (folder / name).mkdir()
        shutil.copy(folder / "dogs/0.png", folder / name / "0.png")
    for name in ("cats/._0.png", "cats/.DS_Store", "cats/Thumbs.db", "dogs/desktop.ini", ".hidden.png"):
        (folder / name).write_bytes(b"no image")
    (folder / "notes.txt").touch()
    data = load(folder)
    assert (data.classes, check(data), data.notes) == (("cats", "dogs"), 12, ())
    for name in ("cats/a.heic", "cats/readme"):
        (folder / name).touch()
    assert load(folder).notes == ("2 files are no images, by their endings: .heic, readme",)
    (folder / "output").mkdir()
    with pytest.raises(RlkitError, match=r"output has no images: .*a folder that is no class is left out if its name"):
        load(folder)


@pytest.mark.parametrize("names", [("10", "2"), ("1", "0"), ("7", "8", "9")])
def test_folders_whose_names_are_numbers(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        write_class(tmp_path, "cats")
        (tmp_path / "cats").rename(tmp_path / name)
    for _ in range(2):  # the index is written, and read
        assert image_folder(data_root=tmp_path, folder=".", image_size=4).classes == tuple(sorted(names))


def test_an_index_of_ones_own_has_the_last_word(folder: Path) -> None:
    for name in ("cats", "dogs"):
        for path in sorted((folder / name).iterdir()):
            (folder / "all").mkdir(exist_ok=True)
            path.rename(folder / "all" / f"{name}{path.name}")
        (folder / name).rmdir()
    rows = [f"all/{path.name},{path.name[:4]}" for path in sorted((folder / "all").iterdir())]
    (folder / "images.csv").write_text("\n".join(["path,label", *rows]) + "\n")
    data = load(folder)
    assert (data.classes, check(data)) == (("cats", "dogs"), 12)


def test_a_folder_that_cannot_be_written_to_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, text: str) -> None:
        raise RlkitError(f"cannot write {path}: Read-only file system")

    monkeypatch.setattr("rlkit.perception.data.folder.write_text", refuse)
    data = load(folder)
    assert check(data) == 12
    assert "images.csv: Read-only file system, so that changes of the folder will not be noticed" in data.notes[0]


@given(st.text(min_size=1))
def test_hidden_is_what_begins_with_a_dot(name: str) -> None:
    assert is_hidden("." + name)
    assert is_hidden(name) == name.startswith(".")


# Pictures


def seen(path: Path, size: int = 4) -> np.ndarray:
    """The picture's rows as (height, width, 3)."""
    return read_image(path, size).permute(1, 2, 0).numpy()


def lossless(name: str) -> dict[str, Any]:
    """What makes a format of files keep every pixel."""
    return {"lossless": True} if name.endswith("webp") else {}


RAMP = np.linspace(0, 65535, 16).reshape(4, 4)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_seen_as_eight(tmp_path: Path, suffix: str) -> None:
    Image.fromarray(RAMP.astype(np.uint16)).save(tmp_path / f"x.{suffix}")
    expected = np.repeat((RAMP / 257).round()[..., None], 3, 2)
    np.testing.assert_array_equal(seen(tmp_path / f"x.{suffix}"), expected)
    assert expected.max() == 255
    assert len(np.unique(expected)) == 16  # a ramp, not white


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "webp", "tif"])
def test_pictures_are_upright(tmp_path: Path, orientation: int, suffix: str) -> None:
    upright = np.zeros((4, 4, 3), np.uint8)
    upright[0, :3] = (255, 0, 0)
    upright[1, 0] = (0, 0, 255)
    turned: dict[int, np.ndarray] = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),  # the camera was turned, so that the picture has to be turned clockwise
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(turned[orientation])).save(
        tmp_path / f"x.{suffix}", exif=exif, **lossless(suffix)
    )
    np.testing.assert_array_equal(seen(tmp_path / f"x.{suffix}"), upright)


def test_notes_that_are_damaged_harm_no_picture(tmp_path: Path) -> None:
    picture = Image.new("RGB", (4, 4), "red")
    for number, exif in enumerate((b"Exif\0\0garbage", b"Exif\0\0MM\0*\0\0\0\x08\0\x09\x01\x12", b"")):
        picture.save(tmp_path / f"{number}.png", exif=exif)
        assert (seen(tmp_path / f"{number}.png") == (255, 0, 0)).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "RGB", "I;16"])
def test_what_is_transparent_is_white(tmp_path: Path, mode: str) -> None:
    """The colours below are black: of what is transparent they are not seen."""
    more: dict[str, Any] = {}
    if mode in ("RGBA", "LA"):
        picture = Image.new(mode, (4, 4), (0,) * len(mode))
        picture.paste((0,) * (len(mode) - 1) + (255,), (0, 0, 2, 4))
    else:
        picture, more["transparency"] = Image.new(mode, (4, 4), 0), (0, 0, 0) if mode == "RGB" else 0
        if mode == "P":
            picture.putpalette([0, 0, 0, 1, 1, 1])
        picture.paste((1,) * 3 if mode == "RGB" else 1, (0, 0, 2, 4))
    picture.save(tmp_path / "x.png", **more)
    found = seen(tmp_path / "x.png")
    assert (found[:, :2] <= 1).all()
    assert (found[:, 2:] == 255).all()


def test_palettes_cmyk_bits_and_animations(tmp_path: Path) -> None:
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 10, 200, 30])
    Image.new("CMYK", (4, 4), (255, 0, 0, 0)).save(tmp_path / "cmyk.tif")
    Image.new("1", (4, 4), 1).save(tmp_path / "bits.png")
    palette.save(tmp_path / "palette.png")
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue", "lime")]
    for name in ("moves.gif", "moves.webp", "moves.png"):
        more = {"append_images": frames[1:], "duration": 100, **lossless(name)}
        frames[0].save(tmp_path / name, save_all=True, **more)
    for name, color in (
        ("cmyk.tif", (0, 255, 255)),
        ("bits.png", (255, 255, 255)),
        ("palette.png", (10, 200, 30)),
        *((f"moves.{suffix}", (255, 0, 0)) for suffix in ("gif", "webp", "png")),
    ):
        assert (seen(tmp_path / name) == color).all(), name


def test_pictures_that_cannot_be_seen(tmp_path: Path) -> None:
    for number, values in enumerate((np.ones((4, 4), np.float32), np.ones((4, 4), np.int32))):
        Image.fromarray(values).save(tmp_path / f"{number}.tif")
        with pytest.raises(RlkitError, match=r"tif is no image, or damaged: it has 32 bits per pixel: expected 8 or"):
            read_image(tmp_path / f"{number}.tif", 4)
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(RlkitError, match=r"pipe.png is no image, or damaged: expected a file"):
        read_image(tmp_path / "pipe.png", 4)


@given(st.integers(0, 65535))
def test_every_level_of_sixteen_bits_has_its_own_of_eight(tmp_path_factory: pytest.TempPathFactory, level: int) -> None:
    path = tmp_path_factory.getbasetemp() / "level.png"
    Image.fromarray(np.full((2, 2), level, np.uint16)).save(path)
    assert torch.equal(read_image(path, 2), torch.full((3, 2, 2), round(level / 257), dtype=torch.uint8))
