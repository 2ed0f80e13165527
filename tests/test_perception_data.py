"""Data sets: what the loaders read, and what they say about files that are not right."""

from __future__ import annotations

import gzip
import hashlib
import io
import struct
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from rlkit.errors import RlkitError
from rlkit.perception import fetch
from rlkit.perception.data import DATASETS, TensorSamples
from rlkit.perception.data.folder import FileSamples, image_folder, read_image
from rlkit.perception.data.formats import read_cifar, read_idx
from rlkit.perception.data.images import cifar10, digits, fashion_mnist
from rlkit.perception.data.rendering import frames
from rlkit.perception.data.synthetic import gaussians, linear, moons, sine, stripes
from rlkit.perception.data.tables import auto_mpg
from rlkit.perception.data.text import encode, glove, imdb, most_frequent, tokenize
from rlkit.perception.fetch import File, download


def idx(values: np.ndarray[Any, Any]) -> bytes:
    return struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.astype(np.uint8).tobytes()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Tiny files in every format."""
    generator = np.random.default_rng(0)
    folder = tmp_path / "fashion-mnist"
    folder.mkdir()
    for part, count in (("train", 30), ("t10k", 10)):
        images = generator.integers(256, size=(count, 28, 28))
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(idx(np.arange(count) % 10))
    folder = tmp_path / "cifar10" / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        rows = generator.integers(256, size=(4, 3073))
        rows[:, 0] = [0, 1, 2, 9]
        (folder / f"{name}.bin").write_bytes(rows.astype(np.uint8).tobytes())
    (tmp_path / "imdb").mkdir()
    reviews = ["text,label", '"A good, GOOD film.<br />It\'s fun",1', '"Bad.\nVery bad",0'] * 5
    (tmp_path / "imdb/imdb.csv").write_text("\n".join([reviews[0], *(r for r in reviews if r != reviews[0])]) + "\n")
    (tmp_path / "glove").mkdir()
    lines = [f"{word} {' '.join([str(value)] * 100)}" for word, value in (("good", 0.5), ("never", 1), ("bad", -0.5))]
    (tmp_path / "glove/glove.6B.100d.txt").write_text("\n".join(lines) + "\n")
    (tmp_path / "auto-mpg").mkdir()
    cars = [f"8,307.0,130.0,3504.0,12.0,{70 + i},{i % 3 + 1},a car,{18 + i}.0" for i in range(12)]
    (tmp_path / "auto-mpg/auto-mpg.csv").write_text("\n".join(cars) + "\n")
    return tmp_path


def test_idx_files(root: Path) -> None:
    data = fashion_mnist(data_root=root, validation=0.2)
    assert (len(data.train), len(data.validation or ()), len(data.test)) == (24, 6, 10)
    batch = data.test.batch(torch.tensor([3, 1]))
    assert batch.inputs.shape == (2, 1, 28, 28)
    assert batch.inputs.dtype == torch.uint8
    assert batch.targets.tolist() == [3, 1]
    train = data.train
    assert isinstance(train, TensorSamples)
    floats = train.inputs.float() / 255
    assert data.mean == pytest.approx([floats.mean().item()])
    assert data.std == pytest.approx([floats.std(correction=0).item()])
    fewer = fashion_mnist(data_root=root, validation=0.2, limit=9, test_limit=4)
    assert (len(fewer.train), len(fewer.validation or ()), len(fewer.test)) == (9, 4, 4)
    assert fewer.test.batch(torch.arange(4)).targets.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: raw[:-1], r"is truncated: 7,\d+ bytes instead of 7,\d+; fetch it again"),
        (lambda raw: raw + b"x", "is too long"),
        (lambda raw: b"\0\0\x0d" + raw[3:], "is no idx file of 3 dimensions: it starts with 00000d03, not 00000803"),
        (lambda raw: raw[:9], "is truncated: its header alone takes 16 bytes, the file has 9"),
        (lambda raw: b"", "is no idx file"),
    ],
)
def test_damaged_idx_files(tmp_path: Path, change: Any, message: str) -> None:
    path = tmp_path / "images-idx3-ubyte"
    raw = idx(np.zeros((9, 28, 28)))
    path.write_bytes(raw)
    assert read_idx(path, 3).shape == (9, 28, 28)
    path.write_bytes(change(raw))
    with pytest.raises(RlkitError, match=message):
        read_idx(path, 3)


def test_truncated_gzip(tmp_path: Path) -> None:
    path = tmp_path / "x-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(idx(np.arange(200)))[:-20])
    with pytest.raises(RlkitError, match=r"x-idx1-ubyte.gz is truncated: fetch it again"):
        read_idx(path, 1)
    path.write_bytes(b"not gzipped")
    with pytest.raises(RlkitError, match="cannot read .*x-idx1-ubyte.gz"):
        read_idx(path, 1)


def test_images_and_labels_have_to_be_as_many(root: Path) -> None:
    (root / "fashion-mnist/t10k-labels-idx1-ubyte").write_bytes(idx(np.zeros(9)))
    with pytest.raises(RlkitError, match="has 10 images, but t10k-labels-idx1-ubyte has 9 labels"):
        fashion_mnist(data_root=root)
    (root / "fashion-mnist/t10k-labels-idx1-ubyte").write_bytes(idx(np.full(10, 11)))
    with pytest.raises(RlkitError, match="t10k-labels-idx1-ubyte: labels go from 11 to 11: with 10 classes"):
        fashion_mnist(data_root=root)


def test_cifar_files(root: Path) -> None:
    data = cifar10(data_root=root, validation=0.0)
    assert (len(data.train), data.validation, data.input_shape) == (20, None, (3, 32, 32))
    path = root / "cifar10/cifar-10-batches-bin/test_batch.bin"
    raw = path.read_bytes()
    batch = data.test.batch(torch.tensor([1]))
    assert batch.targets.tolist() == [1]
    assert batch.inputs[0, 1, 0, 2].item() == raw[3073 + 1 + 1024 + 2]  # second record, green, first row, third pixel
    path.write_bytes(raw[:-1])
    with pytest.raises(RlkitError, match=r"is truncated: 12,291 bytes instead of 12,292"):
        read_cifar([path])
    path.write_bytes(raw[:3073])  # whole images, but not all
    with pytest.raises(RlkitError, match=r"test_batch.bin is truncated: 3,073 bytes instead of 12,292"):
        cifar10(data_root=root)
    path.write_bytes(bytes([10]) + raw[1:])
    with pytest.raises(RlkitError, match="has the label 10: with 10 classes the largest is 9"):
        read_cifar([path])


def test_missing_sets_name_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLKIT_DATA", str(tmp_path))
    with pytest.raises(RlkitError, match=r"cifar10/cifar-10-batches-bin/data_batch_1.bin is missing; `python -m"):
        cifar10()
    for name in ("mnist", "imdb", "auto_mpg"):
        with pytest.raises(RlkitError, match=rf"rlkit.perception.fetch {name.replace('_', '-')} data_root="):
            DATASETS[name]()


def test_reviews(root: Path) -> None:
    data = imdb(data_root=root, words=4, vocabulary=8, test=0.2, validation=0.2, vectors=True)
    assert (len(data.train), len(data.test), data.num_outputs) == (6, 2, 1)
    assert data.vocabulary[:3] == ("<pad>", "<start>", "<unknown>")
    assert data.vectors is not None
    assert data.vectors[data.vocabulary.index("good")].tolist() == [0.5] * 100
    assert data.vectors[2].tolist() == [0.0] * 100


def test_words_become_numbers() -> None:
    texts = [tokenize(text) for text in ("It's GOOD,<br />good!", "Bad")]
    assert texts == [["it's", "good", "good"], ["bad"]]
    known = most_frequent(texts, 5)
    assert known == ["<pad>", "<start>", "<unknown>", "good", "bad"]
    assert encode(texts, known, 3, "end").tolist() == [[2, 3, 3], [0, 1, 4]]
    assert encode(texts, known, 3, "start").tolist() == [[1, 2, 3], [0, 1, 4]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("words,label\na,1\n", r"has the columns \['words', 'label'\]: expected text and label"),
        ("text,label\na,1\nb,2\n", "review 2 has the label '2', which must be 0 or 1"),
        ("text,label\na,1\nb", "row 2 has 1 columns instead of 2; truncated"),
        ('text,label\na,1\n"b', "is truncated or damaged: unexpected end of data"),
        ("text,label\n", "has no reviews"),
    ],
)
def test_damaged_reviews(root: Path, text: str, message: str) -> None:
    (root / "imdb/imdb.csv").write_text(text)
    with pytest.raises(RlkitError, match=message):
        imdb(data_root=root)


def test_damaged_vectors(root: Path) -> None:
    path = root / "glove/glove.6B.100d.txt"
    path.write_text(path.read_text()[:-6])
    with pytest.raises(RlkitError, match="is truncated: line 3 has 99 numbers instead of 100"):
        glove(["good"], root)
    np.savez(root / "glove/glove.100d.npz", words=np.array(["good", "bad"]), vectors=np.ones((2, 100), np.float32))
    assert glove(["good", "x"], root)[:, 0].tolist() == [1, 0]
    packed = root / "glove/glove.100d.npz"
    np.savez_compressed(packed, words=np.array(["good"]), vectors=np.random.default_rng(0).random((1, 100)))
    whole = packed.read_bytes()
    for damaged in (b"", b"PK", whole[: len(whole) // 2], whole[:-200] + b"?" * 9 + whole[-191:]):
        packed.write_bytes(damaged)
        with pytest.raises(RlkitError, match="glove.100d.npz is damaged"):
            glove(["good"], root)
    packed.unlink()
    for damaged, message in ((b"", "is empty"), (b"\xff\xfe 1", "line 1")):
        path.write_bytes(damaged)
        with pytest.raises(RlkitError, match=message):
            glove(["good"], root)


def test_cars(root: Path) -> None:
    data = auto_mpg(data_root=root, validation=0.0, test=0.25)
    inputs = torch.cat([data.train.batch(torch.arange(9)).inputs, data.test.batch(torch.arange(3)).inputs])
    assert inputs.shape == (12, 9)
    first = inputs[inputs[:, 5].argmin()]
    assert first.tolist() == [8, 307, 130, 3504, 12, 70, 1, 0, 0]
    assert data.mean[0] == 8
    known, unknown = ("18.0  8  307.0  130.0  3504.  12.0  70  1", "25.0  4  98.00  ?  2046.  19.0  71  1")
    original = f'{known}\t"a car"\n' * 6 + f'{unknown}\t"another"\n'
    (root / "auto-mpg/auto-mpg.data").write_text(original)
    assert len(auto_mpg(data_root=root, validation=0.0, test=0.5).train) == 3  # without the car of unknown horsepower


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("8,307.0,130.0", "row 2 has 3 columns instead of 9; truncated"),
        ("8,307.0,130.0,3504.0,12.0,70,4,x,18", "car 2 has origin 4: expected 1 to 3"),
        ("8,307.0,much,3504.0,12.0,70,1,x,18", "car 2: expected numbers in cylinders"),
        ("8,nan,130.0,3504.0,12.0,70,1,x,18", "car 2 has displacement nan: expected a number"),
    ],
)
def test_damaged_cars(root: Path, row: str, message: str) -> None:
    path = root / "auto-mpg/auto-mpg.csv"
    path.write_text(path.read_text().splitlines()[0] + "\n" + row + "\n")
    with pytest.raises(RlkitError, match=message):
        auto_mpg(data_root=root)


def test_points_and_functions_are_what_they_say() -> None:
    data = linear(count=500, noise=0.0)
    batch = data.train.batch(torch.arange(500))
    torch.testing.assert_close(batch.targets[:, 0], 2 * batch.inputs[:, 0] - 3.4 * batch.inputs[:, 1] + 4.2)
    assert not torch.equal(batch.inputs, data.test.batch(torch.arange(500)).inputs)
    wave = sine(noise=0.0, frequency=0.5).train.batch(torch.arange(120))
    torch.testing.assert_close(wave.targets, torch.sin(0.5 * torch.pi * wave.inputs))
    ring = gaussians(count=400, std=0.0).train.batch(torch.arange(50))
    torch.testing.assert_close(ring.inputs.norm(dim=1), torch.full((50,), 2.0))
    angles = torch.atan2(ring.inputs[:, 1], ring.inputs[:, 0]) % (2 * torch.pi)
    torch.testing.assert_close(angles, 2 * torch.pi * ring.targets / 8, atol=1e-5, rtol=0)
    edges = stripes().train.batch(torch.arange(1))
    assert edges.targets[0, 0, 0].tolist() == [0, 1, 0, 0, 0, -1, 0]
    first, second = (moons(count=100).train.batch(torch.arange(5)).inputs for _ in range(2))
    assert torch.equal(first, second)
    assert digits().input_shape == (1, 8, 8)


def test_moons_are_split_as_scikit_learn_splits_them() -> None:
    from sklearn.datasets import make_moons
    from sklearn.model_selection import train_test_split

    points, labels = make_moons(101, noise=0.2, random_state=100)
    training, expected, training_labels, expected_labels = train_test_split(
        points, labels, test_size=0.3, random_state=42
    )
    data = moons(count=101, noise=0.2, validation=0.0)
    test = data.test.batch(torch.arange(len(data.test)))
    np.testing.assert_allclose(test.inputs, expected, rtol=1e-6)
    assert test.targets.tolist() == expected_labels.tolist()
    assert len(data.train) == len(training)
    assert sorted(data.train.batch(torch.arange(len(training))).targets.tolist()) == sorted(training_labels)
    assert [len(part) for part in (moons().train, moons().validation or (), moons().test)] == [630, 70, 300]


def test_frames_of_environments() -> None:
    data = frames(envs=["CartPole-v1", "FrozenLake-v1"], count=5, image_size=32, every=1, validation=0.2, test=0.2)
    assert data.classes == ("CartPole-v1", "FrozenLake-v1")
    assert (len(data.train), data.input_shape) == (6, (3, 32, 32))
    cart = torch.cat([data.train.batch(torch.arange(6)).inputs[data.train.batch(torch.arange(6)).targets == 0]])
    assert cart.float().mean() > 200  # white, with a cart
    with pytest.raises(RlkitError, match="data.envs: cannot render NoSuch-v0"):
        frames(envs=["NoSuch-v0"])


def test_frames_that_are_observed() -> None:
    few: dict[str, Any] = {"count": 6, "image_size": 16, "every": 1, "validation": 0.0, "test": 0.5}
    both = [frames(envs=["user_envs:user/Pictures-v0"], observed=observed, **few) for observed in (True, False)]
    observed, rendered = (data.train.batch(torch.arange(3)).inputs for data in both)
    assert torch.equal(observed, rendered)  # this one observes what it renders
    assert observed.float().std() > 50
    with pytest.raises(RlkitError, match=r"CartPole-v1 observes ndarray \(4,\), and no image"):
        frames(envs=["CartPole-v1"], observed=True, **few)


def write_images(root: Path) -> Path:
    from PIL import Image

    folder = root / "mine"
    for label, name in enumerate(("cats", "dogs")):
        (folder / name).mkdir(parents=True)
        for i in range(6):
            Image.new("RGB", (20, 10), (40 * i, 200 * label, 0)).save(folder / name / f"{i}.png")
    return folder


def test_a_folder_of_images_gets_an_index(tmp_path: Path) -> None:
    folder = write_images(tmp_path)
    for in_memory in (True, False):
        data = image_folder(data_root=tmp_path, folder="mine", image_size=16, in_memory=in_memory)
        assert data.classes == ("cats", "dogs")
        assert (len(data.train), len(data.validation or ()), len(data.test)) == (8, 2, 2)
        assert isinstance(data.train, TensorSamples if in_memory else FileSamples)
        batch = data.train.batch(torch.arange(8))
        assert batch.inputs.shape == (8, 3, 16, 16)
        assert torch.equal(batch.inputs[:, 1, 0, 0], (200 * batch.targets).to(torch.uint8))
    lines = (folder / "images.csv").read_text().splitlines()
    assert lines[:2] == ["path,class", "cats/0.png,cats"]
    assert len(lines) == 13


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("path,label\ncats/0.png,0\ncats/1.png,1\n", "images.csv: label 0 does not stand for one folder"),
        ("path,label\ncats/0.png,0\ndogs/1.png,0\n", "images.csv: label 0 does not stand for one folder"),
        ("path,label\n0.png,0\n", "label 0 does not stand for one folder, so that its class is not known: call the"),
        ("path,label\ncats/9.png,0\n", r"names 1 images that are missing, such as cats/9.png: put them back, or rem"),
        ("path,class\ncats/0.png,cats\ncats/0.png,dogs\n", "row 2 gives cats/0.png the class 'dogs': expected one cl"),
        ("path,class\ncats/0.png,\n", "row 1 gives cats/0.png the class '': expected one class"),
        ("path,class\ncats/0.png,cats\ndogs/0.png,dog\n", "unknown class in .*images.csv 'dog'; did you mean 'dogs'"),
        ("path,kind\ncats/0.png,x\n", r"has the columns \['path', 'kind'\]: expected path and class"),
        ("file,label\n", r"has the columns \['file', 'label'\]"),
    ],
)
def test_a_wrong_index(tmp_path: Path, index: str, message: str) -> None:
    (write_images(tmp_path) / "images.csv").write_text(index)
    with pytest.raises(RlkitError, match=message):
        image_folder(data_root=tmp_path, folder="mine")


def test_a_damaged_image_and_an_empty_folder(tmp_path: Path) -> None:
    folder = write_images(tmp_path)
    image = folder / "cats/0.png"
    image.write_bytes(image.read_bytes()[:40])
    with pytest.raises(RlkitError, match="0.png is no image, or damaged"):
        read_image(image, 8)
    with pytest.raises(RlkitError, match="there is no folder .*nothing"):
        image_folder(data_root=tmp_path, folder="nothing")
    (tmp_path / "empty/one").mkdir(parents=True)
    with pytest.raises(RlkitError, match="empty/one has no images: expected files that end in .png, .jpg"):
        image_folder(data_root=tmp_path, folder="empty")
    (tmp_path / "empty/one/0.png").touch()
    with pytest.raises(RlkitError, match="has images of 1 class: expected a folder for each of two or more"):
        image_folder(data_root=tmp_path, folder="empty")


class Server:
    """Serves one file, in pieces: each connection breaks after `most` bytes."""

    def __init__(self, content: bytes, most: int) -> None:
        server = self
        self.ranges: list[str | None] = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked = self.headers.get("Range")
                server.ranges.append(asked)
                if self.path != "/file":
                    self.send_error(404)
                    return
                start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
                self.send_response(206 if asked else 200)
                self.send_header("Content-Length", str(len(content) - start))
                self.end_headers()
                self.wfile.write(content[start : start + most])

            def log_message(self, *args: Any) -> None: ...

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        self.thread = threading.Thread(target=self.http.serve_forever)
        self.thread.start()

    def stop(self) -> None:
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


CONTENT = bytes(range(256)) * 40


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server(CONTENT, most=4000)
    yield server
    server.stop()


def test_a_download_goes_on_where_it_broke(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlkit.perception.fetch.time.sleep", lambda seconds: None)
    sums = hashlib.md5(CONTENT).hexdigest()
    file = File("set/file", (f"{server.url}/no", f"{server.url}/file"), sums)
    download(file, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert server.ranges == [None, None, "bytes=4000-", "bytes=8000-"]  # the first of a source that does not have it
    download(file, tmp_path / "file")
    assert len(server.ranges) == 4  # there already
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_wrong_checksum_is_an_error_and_leaves_nothing(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlkit.perception.fetch.time.sleep", lambda seconds: None)
    file = File("set/file", (f"{server.url}/file", f"{server.url}/no"), "0" * 32)
    with pytest.raises(RlkitError, match=r"cannot fetch set/file: .*the checksum is \w+ instead of 0{32}; .*404"):
        download(file, tmp_path / "file")
    assert not list(tmp_path.iterdir())


def archive(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as packed:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            packed.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def test_archives_are_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "a.tar.gz"
    path.write_bytes(archive({"cifar-10-batches-bin/test_batch.bin": b"123"}))
    fetch.unpack_cifar(path)
    assert (tmp_path / "cifar-10-batches-bin/test_batch.bin").read_bytes() == b"123"
    path.write_bytes(archive({"aclImdb/train/pos/0_9.txt": b"good", "aclImdb/test/neg/0_2.txt": b"bad"}))
    with pytest.raises(RlkitError, match="has 2 reviews instead of 50,000"):
        fetch.unpack_imdb(path)
    with zipfile.ZipFile(tmp_path / "g.zip", "w") as packed:
        packed.writestr("glove.6B.100d.txt", "the 1 2")
    fetch.unpack_glove(tmp_path / "g.zip")
    assert (tmp_path / "glove.6B.100d.txt").read_text() == "the 1 2"
    path.write_bytes(b"no archive")
    with pytest.raises(RlkitError, match="was damaged: .*; the same command fetches it again"):
        fetch.unpack_cifar(path)
    assert not path.exists()


def test_cars_from_openml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["cylinders", "displacement", "horsepower", "weight", "acceleration", "model", "origin"]
    rows = np.array([[8, 307, 130, 3504, 12, 70, 1]] * 392 + [[4, 98, np.nan, 2046, 19, 71, 1]] * 6, float)
    sheet = SimpleNamespace(data=rows, target=np.full(398, 18.5), feature_names=names)
    monkeypatch.setattr("sklearn.datasets.fetch_openml", lambda **_: sheet)
    assert fetch.main(["auto-mpg", f"data_root={tmp_path}"]) == 0
    data = auto_mpg(data_root=tmp_path)
    assert data.train.batch(torch.arange(1)).inputs.tolist() == [[8, 307, 130, 3504, 12, 70, 1, 0, 0]]
    assert data.train.batch(torch.arange(1)).targets.item() == 18.5


def test_environments_are_made_and_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlkit.perception.data.rendering.ENVIRONMENTS", ("CartPole-v1", "Pendulum-v1"))
    fetch.make_environments(tmp_path / "environments", count=5, size=24)
    data = image_folder(data_root=tmp_path, image_size=24)
    assert data.classes == ("CartPole-v1", "Pendulum-v1")
    assert (len(data.train), len(data.test)) == (6, 2)


def test_fetch_tells_mistakes(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RLKIT_DATA", raising=False)
    assert fetch.main(["mnst", f"data_root={tmp_path}"]) == 2
    assert "unknown data set 'mnst'; did you mean 'mnist'?" in capsys.readouterr().err
    assert fetch.main(["mnist"]) == 2
    assert "expected data_root=FOLDER, or the variable RLKIT_DATA" in capsys.readouterr().err
    assert fetch.main(["--help"]) == 0
    assert "cifar10" in capsys.readouterr().out


def test_perception_knows_nothing_of_agents() -> None:
    """What importing all of it loads: no agent, buffer, collector or environment of ours."""
    import subprocess

    code = (
        "import pkgutil, importlib, sys, rlkit.perception\n"
        "for module in pkgutil.walk_packages(rlkit.perception.__path__, 'rlkit.perception.'):\n"
        "    if not module.name.endswith('__main__'): importlib.import_module(module.name)\n"
        "print(*sorted(name for name in sys.modules if name.startswith('rlkit.')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[1] for name in done.stdout.split()}
    assert loaded <= {"perception", "runs", "system", "errors", "conf"}, loaded
    assert {"perception", "runs"} <= loaded
