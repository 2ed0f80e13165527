"""Labelled reviews from a CSV file, as word numbers, and pre-trained vectors for the words."""

from __future__ import annotations

import csv
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rlkit.errors import RlkitError, check_choice, check_range
from rlkit.perception.data.root import locate
from rlkit.perception.data.samples import Data, TensorSamples, split

SPECIAL = ("<pad>", "<start>", "<unknown>")
PAD, START, UNKNOWN = range(3)
SENTIMENTS = ("negative", "positive")
WORD = re.compile(r"[a-z0-9]+(?:'[a-z]+)?")
LARGEST_FIELD = 10**7


def imdb(
    *,
    data_root: Path | None = None,
    vocabulary: int = 10_000,
    words: int = 80,
    keep: str = "end",
    vectors: bool = False,
    vector_scale: float = 1.0,
    validation: float = 0.1,
    test: float = 0.2,
    split_seed: int = 0,
) -> Data:
    """Film reviews, positive or negative (Maas et al. 2011): `imdb/imdb.csv` with the columns text and label.

    A review is its first or last (`keep`: start or end) so many `words`, as numbers: 0 is padding before it, 1 its
    start where nothing was cut off there, 2 any word that is not among the `vocabulary` - 3 most frequent of the
    training reviews. With `vectors`, the words' GloVe vectors come along (`glove/`), times `vector_scale`, zeros for
    words that have none.
    """
    check_range("data.words", words, 1)
    check_range("data.vocabulary", vocabulary, len(SPECIAL) + 1)
    check_choice("data.keep", keep, ["start", "end"])
    file = locate(data_root, "imdb", ["imdb.csv"]) / "imdb.csv"
    texts, labels = read_reviews(file)
    testing, validating, training = split(len(texts), [test, validation], split_seed)
    tokens = [tokenize(text) for text in texts]
    known = most_frequent((tokens[i] for i in training.tolist()), vocabulary)
    numbers = encode(tokens, known, words, keep)
    part = [TensorSamples(numbers[indices], labels[indices]) for indices in (training, validating, testing)]
    return Data(
        train=part[0],
        validation=part[1] if len(validating) else None,
        test=part[2],
        input_shape=(words,),
        num_outputs=1,
        classes=SENTIMENTS,
        vocabulary=tuple(known),
        vectors=vector_scale * glove(known, data_root) if vectors else None,
    )


def read_reviews(path: Path) -> tuple[list[str], Tensor]:
    """The texts and labels, 0 or 1, of a CSV file with a header `text,label`.

    Raises RlkitError for a file without these columns, for a row that lacks one (a truncated file's last), and for
    other labels.
    """
    texts, labels = [], []
    csv.field_size_limit(LARGEST_FIELD)
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file, strict=True)
            if not {"text", "label"} <= set(rows.fieldnames or ()):
                raise RlkitError(f"{path} has the columns {rows.fieldnames}: expected text and label")
            for number, row in enumerate(rows, 1):
                if row["text"] is None or row["label"] not in ("0", "1"):
                    raise RlkitError(f"{path}: review {number} has the label {row['label']!r}, which must be 0 or 1")
                texts.append(row["text"])
                labels.append(int(row["label"]))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RlkitError(f"{path} is truncated or damaged: {error}; fetch it again") from error
    if not texts:
        raise RlkitError(f"{path} has no reviews")
    return texts, torch.tensor(labels)


def tokenize(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation and line breaks in HTML."""
    return WORD.findall(text.lower().replace("<br />", " "))


def most_frequent(texts: Iterable[Sequence[str]], size: int) -> list[str]:
    """A vocabulary: what is not a word, then the most frequent words; of equally frequent ones the alphabet's first."""
    counts = Counter(word for text in texts for word in text)
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    return [*SPECIAL, *ranked[: size - len(SPECIAL)]]


def encode(texts: Sequence[Sequence[str]], vocabulary: Sequence[str], words: int, keep: str) -> Tensor:
    """(texts, words) numbers: each text after START, cut to its `keep`, start or end, and padded before it."""
    number = {word: i for i, word in enumerate(vocabulary)}
    rows = np.zeros((len(texts), words), np.int64)
    for row, text in zip(rows, texts, strict=True):
        whole = [START, *(number.get(word, UNKNOWN) for word in text)]
        part = whole[-words:] if keep == "end" else whole[:words]
        row[words - len(part) :] = part
    return torch.from_numpy(rows)


def glove(vocabulary: Sequence[str], data_root: Path | None = None) -> Tensor:
    """The vector of each word, (vocabulary, 100); zeros for those without one.

    From `glove/glove.6B.100d.txt`, a word and its numbers in each line (Pennington et al. 2014), or `glove.100d.npz`
    with the arrays `words` and `vectors`. Raises RlkitError for damaged files.
    """
    binary = locate(data_root, "glove", []) / "glove.100d.npz"
    if binary.exists():
        pairs = _read_vectors(binary)
    else:
        pairs = _read_vector_lines(locate(data_root, "glove", ["glove.6B.100d.txt"]) / "glove.6B.100d.txt")
    number = {word: i for i, word in enumerate(vocabulary)}
    table = np.zeros((len(vocabulary), 100), np.float32)
    for word, vector in pairs:
        if word in number:
            table[number[word]] = vector
    return torch.from_numpy(table)


def _read_vectors(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            words, vectors = arrays["words"], arrays["vectors"]
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise RlkitError(f"{path} is damaged: {error}; fetch it again") from error
    if vectors.shape != (len(words), 100):
        raise RlkitError(f"{path} is damaged: {len(words)} words, but vectors of {vectors.shape}")
    yield from zip((str(word) for word in words), vectors, strict=True)


def _read_vector_lines(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    count = 0
    with path.open(encoding="utf-8", errors="replace") as file:
        for count, line in enumerate(file, 1):
            word, *numbers = line.rstrip("\n").split(" ")
            try:
                vector = np.array(numbers, np.float32)
            except ValueError as error:
                raise RlkitError(f"{path}, line {count}: {error}; fetch it again") from error
            if len(vector) != 100:
                raise RlkitError(f"{path} is truncated: line {count} has {len(vector)} numbers instead of 100")
            yield word, vector
    if not count:
        raise RlkitError(f"{path} is empty; fetch it again")
