"""Texts and tables as people's programs write them: encodings, line ends, delimiters, quotes, spaces, empty lines."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import os
from pathlib import Path
from typing import Any, NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlkit.errors import RlkitError
from rlkit.perception.config_source import APP
from rlkit.perception.data.folder import image_folder
from rlkit.perception.data.language import read_texts, text
from rlkit.perception.data.readers import BYTE_ORDER_MARKS, DELIMITERS, LARGEST_FILE, read_lines, read_table, read_text
from rlkit.perception.data.tables import read_cars
from rlkit.perception.data.text import glove, read_reviews
from rlkit.runs.hydra_app import run

LINE_ENDS = ("\n", "\r\n", "\r")
ENCODINGS = [(b"", "utf-8"), *BYTE_ORDER_MARKS.items()]
CELLS = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufeff"), max_size=12)


def written(rows: list[list[str]], delimiter: str, end: str, quoting: Any = csv.QUOTE_MINIMAL) -> str:
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, lineterminator=end, quoting=quoting).writerows(rows)
    return text.getvalue()


@given(
    rows=st.lists(st.tuples(CELLS.map(lambda cell: "x" + cell), CELLS), min_size=1, max_size=5),
    encoding=st.sampled_from(ENCODINGS),
    delimiter=st.sampled_from(DELIMITERS),
    end=st.sampled_from(LINE_ENDS),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    head=st.sampled_from([["text", "label"], [" Text", "LABEL "], ["\u00a0text", "label", ""]]),
    packed=st.booleans(),
    empty_lines=st.integers(0, 2),
)
def test_a_table_is_read_however_it_was_written(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[str, str]],
    encoding: tuple[bytes, str],
    delimiter: str,
    end: str,
    quoting: Any,
    head: list[str],
    packed: bool,
    empty_lines: int,
) -> None:
    path = tmp_path_factory.mktemp("table") / "table.csv"
    mark, codec = encoding
    whole = mark + (written([head, *map(list, rows)], delimiter, end, quoting) + end * empty_lines).encode(codec)
    if packed:
        path.with_name("table.csv.gz").write_bytes(gzip.compress(whole))
    else:
        path.write_bytes(whole)
    found = [(row["text"], row["label"]) for row in read_table(path, ["text", "label"])]
    expected = rows if quoting == csv.QUOTE_ALL else [(a, b.lstrip(" ")) for a, b in rows]
    assert [(a, b.lstrip(" ")) for a, b in found] == [(a, b.lstrip(" ")) for a, b in expected]


@pytest.mark.parametrize(("mark", "encoding"), ENCODINGS)
@pytest.mark.parametrize("end", LINE_ENDS)
def test_every_reader_takes_every_encoding(tmp_path: Path, mark: bytes, encoding: str, end: str) -> None:
    from PIL import Image

    def write(name: str, text: str) -> Path:
        (path := tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        path.write_bytes(mark + text.replace("\n", end).encode(encoding))
        return path

    texts, labels = read_reviews(write("imdb.csv", "text,label\nGrüße,1\n\nBad,negative\n"))
    assert (texts, labels.tolist()) == (["Grüße", "Bad"], [1, 0])
    assert read_texts(str(write("text.txt", "one\ntwo\n\n"))) == ["one", "two"]
    cars = [f"8;307,0;130;3504;12;{70 + i};{origin}" for i, origin in enumerate(("1", "europe", "Japan"))]
    head = "Cylinders; displacement;horsepower;weight;acceleration;Model Year;origin;MPG"
    found = read_cars(write("auto-mpg.csv", "\n".join([head, *(car + ";18,5" for car in cars)])))
    assert [(car["displacement"], car["year"], car["origin"], car["mpg"]) for car in found] == [
        (307.0, 70 + i, i + 1, 18.5) for i in range(3)
    ]
    write("glove/glove.6B.100d.txt", f"good {' '.join(['0.5'] * 100)}\n\n")
    assert glove(["good"], tmp_path)[0].tolist() == [0.5] * 100
    for name in ("cats", "dogs"):
        (tmp_path / "mine" / name).mkdir(parents=True)
        for i in range(5):
            Image.new("RGB", (4, 4)).save(tmp_path / "mine" / name / f"{i}.png")
    rows = [f"{name}/{i}.png;{label}" for label, name in enumerate(("cats", "dogs")) for i in range(5)]
    write("mine/images.csv", "\n".join(["path;label", *rows, ""]))
    assert image_folder(data_root=tmp_path, folder="mine", image_size=4).classes == ("cats", "dogs")


def test_a_byte_order_mark_is_no_letter_of_a_vocabulary(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes((codecs.BOM_UTF8 + "ab\u2028ab\n".encode()) * 40)  # files with marks, joined
    data = text(source=str(path), length=4)
    assert set(data.vocabulary) == {"<unknown>", "<end>", "a", "b", "\u2028"}
    assert len(read_texts(str(path))) == 40  # a line separator of Unicode ends no line


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "table.csv is empty: expected the columns text and label"),
        (codecs.BOM_UTF8, "table.csv is empty"),
        (b"text,label\n\xe4,1\n", "table.csv is not in UTF-8: byte 0xe4 near line 2; save it as UTF-8"),
        (b"text,label\n" + b"a,1\n" * 9000 + b"\xe4,1\n", "byte 0xe4 near line 9002; save it as UTF-8"),
        ("text,label\n".encode("utf-16-le"), "is no text, or UTF-16 without a byte-order mark: save it as UTF-8"),
        (b"a,b\n", r"has the columns \['a', 'b'\]: expected text and label"),
        (b"text,label,text\n", "has the column text twice"),
        (b"text,label\na,1,2\n", "row 1 has 3 columns instead of 2"),
        (b'text,label\n"a,1\n', "is truncated or damaged: unexpected end of data"),
    ],
)
def test_a_table_that_cannot_be_read(tmp_path: Path, content: bytes, message: str) -> None:
    (path := tmp_path / "table.csv").write_bytes(content)
    with pytest.raises(RlkitError, match=message):
        list(read_table(path, ["text", "label"]))


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "sparse").touch()
    os.truncate(tmp_path / "sparse", LARGEST_FILE + 1)
    (tmp_path / "half.gz").write_bytes(gzip.compress(b"text\n" * 99)[:-9])
    for name, message in (
        ("fifo", "expected a file"),
        ("zero", "expected a file"),
        (".", "expected a file"),
        ("sparse", "1,073,741,825 bytes: expected at most 1,073,741,824"),
        ("half.gz", "cannot read .*half.gz"),
        ("nothing", "cannot read .*nothing: No such file"),
    ):
        with pytest.raises(RlkitError, match=message):
            list(read_lines(tmp_path / name))
    with pytest.raises(RlkitError, match="data.source=. is neither python, imdb nor a text file in UTF-8: .* a file"):
        text(source=".")


def test_excels_own_line_names_the_delimiter(tmp_path: Path) -> None:
    (path := tmp_path / "table.csv").write_text("sep=;\ntext;label\na, b;1\n;\n")
    assert list(read_table(path, ["text", "label"])) == [{"text": "a, b", "label": "1"}]
    assert read_text(path).startswith("sep=")


@pytest.mark.parametrize(
    ("mark", "encoding", "text", "message"),
    [
        (
            codecs.BOM_UTF8,
            "utf-8",
            "recipe: mine\n",
            "mine.yaml has a byte-order mark or is not in UTF-8: save it as UTF-8",
        ),
        (codecs.BOM_UTF16_LE, "utf-16-le", "recipe: mine\n", "mine.yaml has a byte-order mark or is not in UTF-8"),
        (b"", "cp1252", "recipe: für mich\n", "mine.yaml has a byte-order mark or is not in UTF-8"),
        (b"", "utf-8", "recipe: [mine\n", "cannot read a configuration: .*mine.yaml"),
    ],
)
def test_a_recipe_of_ones_own_is_told_what_hydra_cannot_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mark: bytes, encoding: str, text: str, message: str
) -> None:
    def fail(error: RlkitError) -> NoReturn:
        raise error

    (tmp_path / "recipe").mkdir()
    (tmp_path / "recipe/mine.yaml").write_bytes(mark + text.encode(encoding))
    arguments = [f"--config-dir={tmp_path}", "recipe=mine"]
    monkeypatch.setattr("sys.argv", ["rlkit", *arguments])  # where Hydra looks for them
    with pytest.raises(RlkitError, match=message):
        run(APP, arguments, lambda job: None, fail)
