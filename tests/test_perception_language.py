"""Running text, interpolated n-grams, the perplexity of a language model, and the recipe for one."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from rlkit.errors import RlkitError
from rlkit.perception.checkpoint import load_model
from rlkit.perception.data.language import END, UNKNOWN, cut, joined, numbers, read_texts, stream_of, text, windows
from rlkit.perception.data.samples import Batch, TensorSamples
from rlkit.perception.inputs import Inputs
from rlkit.perception.language import CHUNK, LanguageModeling, count_ngrams
from rlkit.perception.models import make_model
from rlkit.perception.models.language import NGram, RNNLanguageModel, perplexity
from rlkit.perception.run import train


def test_windows_are_the_whole_text_and_targets_are_the_next_tokens() -> None:
    samples = windows(list(range(11)), 3)
    assert samples.inputs.tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert samples.targets.tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    assert stream_of(samples).tolist() == list(range(10))


def test_text_becomes_numbers_and_text_again() -> None:
    words = cut("Don't \"stop\"; it's (only) 3.", "words")
    assert words == ["don't", '"', "stop", '"', ";", "it's", "(", "only", ")", "3", "."]
    known = (UNKNOWN, END, "a", "b")
    stream = numbers(["ab", "ca"], known)
    assert stream == [2, 3, 1, 0, 2, 1]
    assert joined(stream, known) == "ab\n\n�a\n\n"
    assert joined([2, 3, 4, 1, 2], (UNKNOWN, END, "so", "what", "?")) == "so what?\n\nso"


def test_a_file_is_split_by_paragraphs_none_of_which_is_in_two_parts(tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_text("\n\n".join(f"{letter * 9}" for letter in "abcdefghijklmnopqrst"))
    data = text(source=str(file), length=5, validation=0.2, test=0.2)
    assert set(data.vocabulary[:2]) == {UNKNOWN, END}
    assert len(data.vocabulary) == 2 + 12  # of the training text only: what is new in the test is unknown
    assert isinstance(data.train, TensorSamples)
    assert isinstance(data.test, TensorSamples)
    assert sorted(set(stream_of(data.test).tolist())) == [0, 1]
    assert len(data.train) == (12 * 10 - 1) // 5
    paragraphs = joined(stream_of(data.train).tolist(), data.vocabulary).split()[:-1]  # the last one is cut off
    assert set(paragraphs) <= set(file.read_text().split())
    (tmp_path / "short.txt").write_text("one\ntwo\nthree")
    assert read_texts(str(tmp_path / "short.txt")) == ["one", "two", "three"]


def test_python_s_reference_is_there_without_files_and_says_nothing_twice() -> None:
    texts = read_texts("python")
    assert len(texts) == len(set(texts)) > 1000
    assert sum(map(len, texts)) > 200_000


def test_texts_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(RlkitError, match="data.source=pyton is neither python, imdb nor a text file in UTF-8"):
        text(source="pyton")
    with pytest.raises(RlkitError, match="unknown data.unit 'word'; did you mean 'words'"):
        text(unit="word")
    (tmp_path / "text.txt").write_text("\n".join("abcdefghij"))
    with pytest.raises(RlkitError, match="the texts are too short for data.length=64"):
        text(source=str(tmp_path / "text.txt"))
    model = RNNLanguageModel(vocabulary_size=3)
    wrong: dict[str, Any] = {"ngrams": 3, "temperatures": "hot"}
    for name, value in wrong.items():
        with pytest.raises(RlkitError, match=f"task.{name}={value}: expected a list of"):
            LanguageModeling(model, **{name: value})
    with pytest.raises(RlkitError, match=r"task.ngrams=0 is out of range"):
        LanguageModeling(model, ngrams=[0])
    with pytest.raises(RlkitError, match="task=language_modeling trains RNNLanguageModel, not LeNet"):
        LanguageModeling(make_model("lenet"))


def test_an_interpolated_ngram_adds_what_shorter_contexts_expect() -> None:
    model = NGram(n=2, vocabulary_size=3, smoothing=2, interpolate=True).fit([0, 1, 0, 1, 0, 2])
    alone = [(3 + 2 / 3) / 8, (2 + 2 / 3) / 8, (1 + 2 / 3) / 8]
    assert [model.probability(token) for token in range(3)] == pytest.approx(alone)
    behind_0 = [2 * alone[0] / 5, (2 + 2 * alone[1]) / 5, (1 + 2 * alone[2]) / 5]
    assert [model.probability(token, [0]) for token in range(3)] == pytest.approx(behind_0)
    assert sum(behind_0) == pytest.approx(1)
    assert model.probability(1, [2]) == pytest.approx(alone[1])  # nothing came behind 2


def test_ngrams_choose_the_pseudo_count_that_suits_an_uncounted_text() -> None:
    """Behind each of 40 tokens comes a certain one: hardly anything should be added. A coin wants the contrary."""
    certain = [token for _ in range(30) for token in range(40)]
    assert [model.smoothing for model in count_ngrams(certain, certain, 40, [2])] == [0.1]
    coin = torch.randint(2, (400,), generator=torch.Generator().manual_seed(0)).tolist()
    chosen = count_ngrams(coin[:40], coin[40:], 2, [1, 4])
    assert [model.n for model in chosen] == [1, 4]
    assert chosen[1].smoothing >= 3


def test_ngrams_write_what_they_have_counted() -> None:
    model = NGram(n=3, vocabulary_size=4, smoothing=0).fit([0, 0, 1, 1] * 20)
    assert model.generate([0, 0], 6) == [1, 1, 0, 0, 1, 1]


def test_perplexity_of_an_undecided_network_is_the_size_of_its_vocabulary(tmp_path: Path) -> None:
    """Known answers: log V nats per token for logits that are all equal, whatever the text; 1-grams know the shares."""
    file = tmp_path / "text.txt"
    file.write_text("\n".join(["aab"] * 2000))
    data = text(source=str(file), length=7, validation=0.0)
    model = RNNLanguageModel(vocabulary_size=len(data.vocabulary), embedding_size=4, hidden_size=4)
    for parameter in model.head.parameters():
        torch.nn.init.zeros_(parameter)
    task = LanguageModeling(model, ngrams=[1, 2, 3])
    batch = data.test.batch(torch.arange(3))
    assert task.measure(batch)["loss"].item() == pytest.approx(math.log(4))  # a, b, <end>, <unknown>
    results = task.finish(data, Inputs())
    assert results["perplexity"] == pytest.approx(4)
    # a, a, b, end: shares of ½, ¼, ¼, so exp(½ log 2 + ½ log 4) = 2^1.5; behind an a, an a or a b.
    assert results["perplexity_1gram"] == pytest.approx(2**1.5, rel=2e-3)
    assert results["perplexity_2gram"] == pytest.approx(2**0.5, rel=2e-3)
    assert results["perplexity_3gram"] == pytest.approx(1, abs=2e-3)
    with pytest.raises(RlkitError, match="needs running text: data=text"):
        task.measure(Batch(batch.inputs, batch.targets[:, 0]))


def test_a_text_is_read_in_one_go_however_long() -> None:
    torch.manual_seed(0)
    model = RNNLanguageModel(vocabulary_size=5, embedding_size=4, hidden_size=6, kind="lstm")
    stream = torch.randint(5, (2 * CHUNK + 7,))
    with torch.no_grad():
        expected = model.log_probs(stream[None])[0].double()
        found = LanguageModeling(model).read(stream)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert perplexity(found) == pytest.approx(perplexity(expected), rel=1e-6)


def test_the_recipe_learns_a_text_of_one_s_own(tmp_path: Path) -> None:
    """Where the next letter depends on more than two before it: the network does what a 2-gram cannot."""
    file = tmp_path / "text.txt"
    file.write_text("\n".join(["abba", "abba", "baab", "baab"] * 60))
    fields = {"data.source": str(file), "data.length": 20, "model.hidden_size": 16, "model.embedding_size": 16}
    settings = {"fit.epochs": 25, "fit.learning_rate": 0.03, "task.ngrams": [1, 2], "task.generate": 40}
    result = train("language-model", run_dir=tmp_path / "run", **fields, **settings)
    assert result.summary["test_perplexity"] < 1.35 < result.summary["test_perplexity_2gram"]
    written = (tmp_path / "run/samples.txt").read_text()
    for name in ("the network, temperature 0.5", "the network, temperature 1", "1-gram", "2-gram"):
        assert f"--- {name} ---" in written
    model, _, description = load_model(tmp_path / "run")
    assert set(description.vocabulary) == {UNKNOWN, END, "a", "b"}
    assert isinstance(model, RNNLanguageModel)
    start = torch.tensor([[description.vocabulary.index(token) for token in (END, "b", "a")]])
    drawn = model.generate(start, 2, temperature=0.01)[0].tolist()
    assert joined(drawn, description.vocabulary) == "ab"
