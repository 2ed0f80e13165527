"""Labelled reviews from a CSV file, as numbers of words, and pre-trained vectors of the words."""

from __future__ import annotations

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
from rlkit.perception.data.readers import read_lines, read_table
from rlkit.perception.data.root import locate
from rlkit.perception.data.samples import Data, TensorSamples, split

SPECIAL = ("<pad>", "<start>", "<unknown>")
PAD, START, UNKNOWN = range(3)
SENTIMENTS = ("negative", "positive")
WORD = re.compile(r"[a-z0-9]+(?:'[a-z]+)?")
LABELS = {"0": 0, "1": 1, "negative": 0, "positive": 1}
"""Labels of reviews, as numbers or as the names of SENTIMENTS."""


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

    A review becomes as many numbers as `words`: those of its first or last words (`keep=start` or `keep=end`), with
    padding before them if it is short. Number 0 is padding, 1 marks the start of a review unless that was cut off, and
    2 is any word that is not among the `vocabulary` − 3 most frequent words of the training reviews. With `vectors`,
    the words' GloVe vectors are read from `glove/` and multiplied by `vector_scale`; words without a vector get zeros.
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
    """Reads the texts and the labels of a CSV file with a header `text,label`; labels are 0 or 1, or SENTIMENTS.

    Raises RlkitError for a file without these columns, for a row that lacks one, as the last row of a truncated file
    does, and for other labels.
    """
    texts, labels = [], []
    for number, row in enumerate(read_table(path, ["text", "label"]), 1):
        label = LABELS.get(row["label"].strip().lower())
        if label is None:
            raise RlkitError(f"{path}: review {number} has the label {row['label']!r}, which must be 0 or 1")
        texts.append(row["text"])
        labels.append(label)
    if not texts:
        raise RlkitError(f"{path} has no reviews")
    return texts, torch.tensor(labels)


def tokenize(text: str) -> list[str]:
    """Returns the words of a text in lower case, without punctuation and without line breaks in HTML."""
    return WORD.findall(text.lower().replace("<br />", " "))


def most_frequent(texts: Iterable[Sequence[str]], size: int) -> list[str]:
    """Returns a vocabulary of `size`: the SPECIAL tokens, then the most frequent words.

    Equally frequent words are in alphabetical order, so that equal texts give equal vocabularies.
    """
    counts = Counter(word for text in texts for word in text)
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    return [*SPECIAL, *ranked[: size - len(SPECIAL)]]


def encode(texts: Sequence[Sequence[str]], vocabulary: Sequence[str], words: int, keep: str) -> Tensor:
    """Returns the texts as numbers, (texts, words): START and the text's words, cut to the start or end of that.

    `keep` is `start` or `end`. Shorter texts have padding before them.
    """
    number = {word: i for i, word in enumerate(vocabulary)}
    rows = np.zeros((len(texts), words), np.int64)
    for row, text in zip(rows, texts, strict=True):
        whole = [START, *(number.get(word, UNKNOWN) for word in text)]
        part = whole[-words:] if keep == "end" else whole[:words]
        row[words - len(part) :] = part
    return torch.from_numpy(rows)


def glove(vocabulary: Sequence[str], data_root: Path | None = None) -> Tensor:
    """Reads the vector of each word, (vocabulary, 100); words without one get zeros.

    The file is `glove/glove.100d.npz` with the arrays `words` and `vectors`, or else `glove/glove.6B.100d.txt` with a
    word and its numbers in each line (Pennington et al. 2014). Raises RlkitError for a missing or damaged file.
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
    for count, line in enumerate(read_lines(path), 1):
        if not line.strip():
            continue
        word, *numbers = line.rstrip().split(" ")  # other spaces can be parts of words
        try:
            vector = np.array(numbers, np.float32)
        except ValueError as error:
            raise RlkitError(f"{path}, line {count}: {error}; fetch it again") from error
        if len(vector) != 100:
            raise RlkitError(f"{path} is truncated: line {count} has {len(vector)} numbers instead of 100")
        yield word, vector
    if not count:
        raise RlkitError(f"{path} is empty; fetch it again")
