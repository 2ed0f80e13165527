"""Running text as numbers of tokens, cut into windows, from which a language model learns to continue a text."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from rlkit.errors import RlkitError, check_choice, check_range
from rlkit.perception.data.readers import read_text
from rlkit.perception.data.root import locate
from rlkit.perception.data.samples import Data, TensorSamples, split
from rlkit.perception.data.text import read_reviews
from rlkit.system.user_paths import user_path

UNKNOWN, END = "<unknown>", "<end>"
UNITS = ("characters", "words")
TOKEN = re.compile(r"[a-z0-9]+(?:'[a-z]+)?|[.,;:!?()\"]")
FEWEST_PARAGRAPHS = 10
"""A file with fewer paragraphs than this is divided into its lines instead."""


def text(
    *,
    data_root: Path | None = None,
    source: str = "python",
    unit: str = "characters",
    length: int = 64,
    vocabulary: int = 5_000,
    limit: int | None = None,
    validation: float = 0.1,
    test: float = 0.1,
    split_seed: int = 0,
) -> Data:
    """Running text, of which each next token is predicted from those before it; `unit` is `characters` or `words`.

    `source` is `python`, the paragraphs of the language's reference, which come with Python; `imdb`, film reviews
    (`imdb/imdb.csv`); or the path of a text file, whose paragraphs are the texts. Words are in lower case, and
    punctuation marks are words of their own. The texts of a part are joined, with an `<end>` behind each. A sample is a
    window of `length` tokens, and its targets are the tokens that follow each of them. The `vocabulary` − 2 most
    frequent tokens of the training texts have numbers of their own; all others are `<unknown>`. `limit` is the largest
    number of texts that are used.
    """
    check_choice("data.unit", unit, UNITS)
    check_range("data.length", length, 1)
    check_range("data.vocabulary", vocabulary, 3)
    check_range("data.limit", limit, 1)
    texts = read_texts(source, data_root)[:limit]
    tokens = [cut(one, unit) for one in texts]
    testing, validating, training = (
        [tokens[i] for i in sorted(part.tolist())] for part in split(len(texts), [test, validation], split_seed)
    )
    counts = Counter(token for one in training for token in one)
    ranked = sorted(counts, key=lambda token: (-counts[token], token))
    known = (UNKNOWN, END, *ranked[: vocabulary - 2])
    parts = [windows(numbers(part, known), length) for part in (training, validating, testing)]
    if not len(parts[0]) or (test and not len(parts[2])):
        raise RlkitError(f"data.source={source}: the texts are too short for data.length={length} and a test part")
    return Data(
        train=parts[0],
        validation=parts[1] if len(parts[1]) else None,
        test=parts[2],
        input_shape=(length,),
        vocabulary=known,
    )


def read_texts(source: str, data_root: Path | None = None) -> list[str]:
    """Reads the texts of a source; raises RlkitError when it is missing or its file cannot be read."""
    if source == "python":
        from pydoc_data.topics import topics

        # Topics quote each other. Each paragraph is taken once, so that none is in both the training and the test part.
        quoted = (" ".join(one.split()) for name in sorted(topics) for one in topics[name].split("\n\n"))
        return [one for one in dict.fromkeys(quoted) if one]
    if source == "imdb":
        reviews, _ = read_reviews(locate(data_root, "imdb", ["imdb.csv"]) / "imdb.csv")
        return [review.replace("<br />", " ") for review in dict.fromkeys(reviews)]
    file = user_path(source)
    try:
        whole = read_text(file).strip()
    except RlkitError as error:
        raise RlkitError(f"data.source={source} is neither python, imdb nor a text file in UTF-8: {error}") from error
    paragraphs = [one.strip("\n") for one in re.split(r"\n\s*\n", whole) if one.strip()]
    return paragraphs if len(paragraphs) >= FEWEST_PARAGRAPHS else [line for line in whole.split("\n") if line.strip()]


def cut(text: str, unit: str) -> list[str]:
    """Splits a text into its characters or its words."""
    return list(text) if unit == "characters" else TOKEN.findall(text.lower())


def numbers(texts: Sequence[Sequence[str]], vocabulary: Sequence[str]) -> list[int]:
    """Returns the indices of all tokens in the vocabulary as one list, with that of END behind each text."""
    index = {token: i for i, token in enumerate(vocabulary)}
    unknown, end = index[UNKNOWN], index[END]
    return [number for text in texts for number in (*(index.get(token, unknown) for token in text), end)]


def windows(stream: Sequence[int], length: int) -> TensorSamples:
    """Cuts a text into windows that do not overlap; inputs and targets are (windows, length).

    The target of each token is the token after it. What is left at the end, too short for a window, is dropped.
    """
    count = max(0, len(stream) - 1) // length
    tokens = torch.tensor(stream[: count * length + 1])
    return TensorSamples(tokens[:-1].view(count, length), tokens[1:].view(count, length))


def stream_of(samples: TensorSamples) -> Tensor:
    """Joins the windows that `windows` made to a running text again: (tokens,)."""
    return torch.cat([samples.inputs.flatten(), samples.targets.flatten()[-1:]])


def joined(tokens: Sequence[int], vocabulary: Sequence[str]) -> str:
    """Turns numbers of tokens into readable text; an END becomes an empty line."""
    words = [vocabulary[token] for token in tokens]
    if all(len(token) == 1 for token in vocabulary if token not in (UNKNOWN, END)):
        return "".join("\n\n" if word == END else "�" if word == UNKNOWN else word for word in words)
    whole = " ".join("\n\n" if word == END else word for word in words)
    return re.sub(r" +([.,;:!?)]|\n\n)", r"\1", whole).replace("( ", "(").replace("\n\n ", "\n\n")
