"""The command `python -m rlkit.perception.fetch NAME … data_root=FOLDER`, which downloads data sets.

Files come from public places, in their authors' formats, and are checked against known checksums. Tables come through
scikit-learn from OpenML. A data set that is there already is not fetched again, and a download that was stopped is
continued.
"""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import sys
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from rlkit.errors import RlkitError, unknown
from rlkit.perception.data.root import VARIABLE
from rlkit.runs.files import atomic, make_folder
from rlkit.system.terminal import complain, prepare, say
from rlkit.system.user_paths import user_path

CHUNK = 1 << 20
"""Bytes that are read from a download at a time."""
TIMEOUT = 30
"""Seconds without an answer after which a connection is given up."""
ATTEMPTS = 3
"""Number of attempts at each address."""


class File(NamedTuple):
    """One file to download: the addresses to try in turn, and its MD5 sum.

    The sums are those that the file's authors, torchvision or torchtext publish.
    """

    name: str
    urls: tuple[str, ...]
    md5: str


def _idx(folder: str, bases: Sequence[str], sums: Sequence[str]) -> tuple[File, ...]:
    names = [f"{part}-{kind}-ubyte.gz" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
    return tuple(
        File(f"{folder}/{name}", tuple(f"{base}/{name}" for base in bases), md5)
        for name, md5 in zip(names, sums, strict=True)
    )


DOWNLOADS: dict[str, tuple[File, ...]] = {
    "mnist": _idx(
        "mnist",
        ("https://ossci-datasets.s3.amazonaws.com/mnist", "https://storage.googleapis.com/cvdf-datasets/mnist"),
        (
            "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "d53e105ee54ea40749a09fcbcd1e9432",
            "9fb629c4189551a2d022fa330f9573f3",
            "ec29112dd5afa0611ce80d1b7f02629c",
        ),
    ),
    "fashion-mnist": _idx(
        "fashion-mnist",
        (
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
            "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion",
        ),
        (
            "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "25c81989df183df01b3e8a0aad5dffbe",
            "bef4ecab320f06d8554ea6380940ec79",
            "bb300cfdad3c16e7a12a480ee83cd310",
        ),
    ),
    "cifar10": (
        File(
            "cifar10/cifar-10-binary.tar.gz",
            ("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",),
            "c32a1d4ab5d03f1284b67883e8d87530",
        ),
    ),
    "imdb": (
        File(
            "imdb/aclImdb_v1.tar.gz",
            ("https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz",),
            "7c2ac02c03563afcf9b574c7e56c153a",
        ),
    ),
    "glove": (
        File(
            "glove/glove.6B.zip",
            ("https://nlp.stanford.edu/data/glove.6B.zip", "https://downloads.cs.stanford.edu/nlp/data/glove.6B.zip"),
            "056ea991adb4740ac6bf1b6d9b50408b",
        ),
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code: 0, 2 for a mistake or a failed download, 130 after Ctrl-C."""
    prepare()
    arguments = sys.argv[1:] if arguments is None else arguments
    known = [*DOWNLOADS, *MADE]
    if not arguments or {"-h", "--help"} & set(arguments):
        say(f"python -m rlkit.perception.fetch NAME … [data_root=FOLDER]\n\nNAME is one of: {', '.join(known)}")
        say(f"The folder is data_root=… or that of the variable {VARIABLE}.")
        return 0
    try:
        roots = [argument.removeprefix("data_root=") for argument in arguments if argument.startswith("data_root=")]
        names = [argument for argument in arguments if not argument.startswith("data_root=")]
        root = roots[-1] if roots else os.environ.get(VARIABLE)
        if not root:
            raise RlkitError(f"expected data_root=FOLDER, or the variable {VARIABLE}: where the data sets go")
        for name in names:
            if name not in known:
                raise unknown("data set", name, known)
        for name in names:
            fetch(name, user_path(root))
    except RlkitError as error:
        complain(error)
        return 2
    except KeyboardInterrupt:
        say("stopped; the same command goes on from here", "stderr")
        return 130
    return 0


def fetch(name: str, root: Path) -> None:
    """Fetches a data set into `<root>/<name>`, unless it is there; raises RlkitError when none of its sources works."""
    done = root / name / ".fetched"
    if done.exists():
        say(f"{name}: there already, in {root / name}")
        return
    make_folder(root / name)
    if name in MADE:
        MADE[name](root / name)
    for file in DOWNLOADS.get(name, ()):
        download(file, root / file.name)
    if name in UNPACKED:
        UNPACKED[name](root / DOWNLOADS[name][0].name)
    done.touch()
    say(f"{name}: in {root / name}")


def download(file: File, path: Path) -> None:
    """Downloads one file to `path`, unless it is there.

    It is written to `<path>.part` first, which a later attempt continues. Raises RlkitError when no address gives a
    file with the expected checksum.
    """
    if path.exists():
        return
    part = path.with_name(f"{path.name}.part")
    reasons = []
    for url in file.urls:
        try:
            _download(url, part)
        except OSError as error:  # the base class of urllib's errors too
            reasons.append(f"{url}: {error}")
            continue
        found = md5(part)
        if file.md5 == found:
            part.replace(path)
            return
        part.unlink()
        reasons.append(f"{url}: the checksum is {found} instead of {file.md5}")
    raise RlkitError(f"cannot fetch {file.name}: {'; '.join(reasons)}")


def _download(url: str, part: Path) -> None:
    """Downloads into `part`, trying again when the connection breaks; raises OSError after the last attempt."""
    for attempt in range(ATTEMPTS):
        try:
            return _continue(url, part)
        except OSError as error:
            hopeless = isinstance(error, urllib.error.HTTPError) and error.code < 500
            if hopeless or attempt == ATTEMPTS - 1:
                raise
            time.sleep(attempt)


def _continue(url: str, part: Path) -> None:
    """Downloads the rest of `part`; the whole file if the server cannot send a part of it."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # the requested range is empty: the file is complete
            return
        raise
    with response:
        resumes = response.status == 206
        length = int(response.headers.get("Content-Length") or 0)
        total = length + (have if resumes else 0)
        with part.open("ab" if resumes else "wb") as file:
            shown = 0.0
            while chunk := response.read(CHUNK):
                file.write(chunk)
                if time.monotonic() - shown > 5:
                    shown = time.monotonic()
                    say(f"{part.stem}: {file.tell() / 1e6:,.0f} of {total / 1e6:,.0f} MB", "stderr")
        if total and part.stat().st_size < total:
            raise OSError(f"the connection ended after {part.stat().st_size:,} of {total:,} bytes")


def md5(path: Path) -> str:
    """Returns the MD5 sum of a file's contents."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def unpack_cifar(archive: Path) -> None:
    """Unpacks cifar-10-batches-bin/*.bin from the authors' archive."""
    with _readable(archive), tarfile.open(archive) as packed:
        packed.extractall(archive.parent, filter="data")


def unpack_imdb(archive: Path) -> None:
    """Writes imdb.csv with the 25,000 training reviews before the 25,000 test reviews, sorted by their files' names."""
    import csv

    rows = []
    with _readable(archive), tarfile.open(archive) as packed:
        for member in packed:
            parts = Path(member.name).parts  # aclImdb/train/pos/0_9.txt
            if len(parts) == 4 and parts[2] in ("pos", "neg") and (text := packed.extractfile(member)):
                rows.append((parts[1] != "train", member.name, text.read().decode("utf-8"), int(parts[2] == "pos")))
    if len(rows) != 50_000:
        raise RlkitError(f"{archive} has {len(rows)} reviews instead of 50,000")
    with (
        atomic(archive.with_name("imdb.csv")) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows(row[2:] for row in sorted(rows))


def unpack_glove(archive: Path) -> None:
    """Unpacks glove.6B.100d.txt from the authors' archive, whose members have checksums."""
    name = "glove.6B.100d.txt"
    with (
        _readable(archive),
        zipfile.ZipFile(archive) as packed,
        atomic(archive.with_name(name)) as temporary,
        packed.open(name) as source,
        temporary.open("wb") as file,
    ):
        shutil.copyfileobj(source, file, CHUNK)


class _readable:
    """A context that deletes an archive that turns out to be damaged, and raises an RlkitError about it."""

    def __init__(self, archive: Path) -> None:
        self._archive = archive

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, (tarfile.TarError, zipfile.BadZipFile, EOFError, KeyError, UnicodeDecodeError)):
            with suppress(OSError):
                self._archive.unlink()
            reason = f"{error}".partition("\n")[0]
            raise RlkitError(f"{self._archive} was damaged: {reason}; the same command fetches it again") from error


def make_auto_mpg(folder: Path) -> None:
    """Writes auto-mpg.csv from OpenML's table, which scikit-learn downloads and checks."""
    from sklearn.datasets import fetch_openml

    from rlkit.perception.data.tables import COLUMNS, ORIGINS

    try:
        sheet = fetch_openml(data_id=196, as_frame=False, parser="liac-arff", data_home=folder / "openml")
    except (OSError, ValueError) as error:
        raise RlkitError(f"cannot fetch auto-mpg from OpenML: {error}") from error
    names = [name.lower().replace("model", "year").replace("year_year", "year") for name in sheet.feature_names]
    lines = [",".join((*COLUMNS, "origin", "mpg"))]
    for row, target in zip(sheet.data, sheet.target, strict=True):
        values = dict(zip(names, row, strict=True))
        numbers = [float(value) for value in (*(values[column] for column in (*COLUMNS, "origin")), target)]
        if not any(map(math.isnan, numbers)):  # the horsepower of six cars is missing
            lines.append(",".join(f"{number:g}" for number in numbers))
    if len(lines) != 393:
        raise RlkitError(f"auto-mpg from OpenML has {len(lines) - 1} cars with {len(ORIGINS)} origins instead of 392")
    with atomic(folder / "auto-mpg.csv") as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def make_environments(folder: Path, count: int = 200, size: int = 96) -> None:
    """Renders a folder of frames for each of five environments, as an example of images of one's own."""
    from PIL import Image

    from rlkit.perception.data.rendering import ENVIRONMENTS, render

    for env in ENVIRONMENTS:
        make_folder(folder / env)
        for i, frame in enumerate(render(env, count, size, every=4, seed=0)):
            with atomic(folder / env / f"{i:04}.png") as temporary:
                Image.fromarray(frame.permute(1, 2, 0).numpy()).save(temporary)


UNPACKED: dict[str, Callable[[Path], None]] = {
    "cifar10": unpack_cifar,
    "imdb": unpack_imdb,
    "glove": unpack_glove,
}
"""Data sets whose archive has to be unpacked, with the function that does it."""
MADE: dict[str, Callable[[Path], None]] = {"auto-mpg": make_auto_mpg, "environments": make_environments}
"""Data sets that are made instead of downloaded, with the function that writes the folder."""

if __name__ == "__main__":
    sys.exit(main())
