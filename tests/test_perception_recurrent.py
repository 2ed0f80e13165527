"""Cells, recurrent layers, text classifiers and language models."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from rlkit.errors import RlkitError
from rlkit.perception.models import make_model
from rlkit.perception.models.language import NGram, RNNLanguageModel, perplexity
from rlkit.perception.models.recurrent import CELLS, GRUCell, LSTMCell, Recurrent, RNNCell, copy_weights
from rlkit.perception.models.text import TextClassifier

KINDS = ["rnn", "lstm", "gru"]
TORCH_CELLS = {"rnn": nn.RNNCell, "lstm": nn.LSTMCell, "gru": nn.GRUCell}


# Cells


@pytest.mark.parametrize("kind", KINDS)
def test_cell_agrees_with_torchs(kind: str) -> None:
    torch.manual_seed(0)
    theirs, ours = TORCH_CELLS[kind](5, 3).double(), CELLS[kind](5, 3).double()
    ours.load_state_dict(theirs.state_dict())
    x, h, c = torch.randn(4, 5).double(), torch.randn(4, 3).double(), torch.randn(4, 3).double()
    state = (h, c) if kind == "lstm" else h
    for a, b in zip(ours(x, state), theirs(x, state), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_layers_of_cells_agree_with_torchs_in_outputs_states_and_gradients(kind: str) -> None:
    torch.manual_seed(1)
    cells = Recurrent(5, 4, kind=kind, num_layers=2, implementation="cells")
    layers = Recurrent(5, 4, kind=kind, num_layers=2)
    copy_weights(cells, layers)
    inputs, more = torch.randn(3, 7, 5), torch.randn(3, 2, 5)
    grads = []
    results = []
    for net in (cells, layers):
        outputs, states = net(inputs)
        later, states = net(more, states)  # states are handed on
        (outputs.square().sum() + later.square().sum()).backward()
        grads.append([parameter.grad for parameter in net.parameters()])
        flat = [part for state in states for part in (state if isinstance(state, tuple) else (state,))]
        results.append([outputs, later, *flat])
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=1e-6)
    torch.testing.assert_close(grads[0], grads[1], rtol=0, atol=1e-5)
    whole, _ = layers(torch.cat([inputs, more], 1))
    torch.testing.assert_close(whole[:, 7:], results[1][1], rtol=0, atol=1e-6)


def test_shapes_of_the_sources_example() -> None:
    """64 units, two levels, texts of 80 words with vectors of 100 numbers."""
    outputs, states = Recurrent(100, 64, kind="rnn", num_layers=2)(torch.randn(4, 80, 100))
    assert outputs.shape == (4, 80, 64)
    assert [state.shape for state in states if isinstance(state, torch.Tensor)] == [(4, 64), (4, 64)]


def set_gates(cell: LSTMCell, forget: float, take_in: float) -> None:
    """Gates that ignore input and state: bias ±50 is a sigmoid of 1 or 0; the candidate is tanh of the input."""
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.zero_()
        cell.weight_ih[2] = 1.0
        cell.bias_ih[0], cell.bias_ih[1], cell.bias_ih[3] = take_in, forget, 50.0


@pytest.mark.parametrize(
    ("forget", "take_in", "expected"),
    [
        (50.0, -50.0, 0.7),  # remembers
        (50.0, 50.0, 0.7 + math.tanh(0.5)),  # adds up
        (-50.0, 50.0, math.tanh(0.5)),  # overwrites
        (-50.0, -50.0, 0.0),  # erases
    ],
)
def test_what_the_gates_of_an_lstm_do(forget: float, take_in: float, expected: float) -> None:
    cell = LSTMCell(1, 1)
    set_gates(cell, forget, take_in)
    h, c = cell(torch.tensor([[0.5]]), (torch.zeros(1, 1), torch.tensor([[0.7]])))
    assert c.item() == pytest.approx(expected)
    assert h.item() == pytest.approx(math.tanh(expected))


@pytest.mark.parametrize(("z", "expected"), [(50.0, 0.7), (-50.0, math.tanh(0.5))])
def test_what_the_update_gate_of_a_gru_does(z: float, expected: float) -> None:
    cell = GRUCell(1, 1)
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.zero_()
        cell.weight_ih[2], cell.bias_ih[1] = 1.0, z
    assert cell(torch.tensor([[0.5]]), torch.tensor([[0.7]])).item() == pytest.approx(expected)


def test_gradient_through_time_is_the_product_of_jacobians() -> None:
    """∂h_T/∂h_0 = ∏ diag(1 − h_t²) W_hh: what makes gradients vanish or explode."""
    torch.manual_seed(2)
    cell = RNNCell(2, 3).double()
    inputs = torch.randn(5, 1, 2).double()

    def last(h: torch.Tensor) -> torch.Tensor:
        for x in inputs:
            h = cell(x, h)
        return h

    start = torch.randn(1, 3).double()
    jacobian = torch.eye(3).double()
    h = start
    for x in inputs:
        h = cell(x, h)
        jacobian = torch.diag(1 - h[0] ** 2) @ cell.weight_hh @ jacobian
    found = torch.func.jacrev(last)(start)
    torch.testing.assert_close(found[0, :, 0], jacobian.detach())


# Text


@pytest.mark.parametrize("kind", [*KINDS, "mean"])
def test_padding_before_or_behind_a_text_changes_little(kind: str) -> None:
    torch.manual_seed(0)
    model = TextClassifier(vocabulary_size=20, kind=kind, hidden_size=8, embedding_size=6, num_layers=1).eval()
    plain = model(torch.tensor([[3, 4, 5]]))
    behind = model(torch.tensor([[3, 4, 5, 0, 0], [3, 4, 5, 6, 7]]))
    torch.testing.assert_close(behind[:1], plain)
    assert not torch.allclose(behind[1:], plain)


def test_classifier_shapes_and_padding_vector() -> None:
    model = TextClassifier(num_outputs=3)
    assert model.embedding.weight.shape == (10_000, 100)
    assert not model.embedding.weight[0].any()
    assert model(torch.randint(1, 10_000, (4, 80))).shape == (4, 3)
    assert model.encode(torch.zeros(2, 80, dtype=torch.int64)).isfinite().all()  # texts of no word


def test_embedding_is_a_product_with_one_hot_vectors() -> None:
    table = nn.Embedding(10, 4)
    words = torch.tensor([1, 7, 7])
    torch.testing.assert_close(table(words), nn.functional.one_hot(words, 10).float() @ table.weight)


@pytest.mark.parametrize("trained", [True, False])
def test_pretrained_vectors_are_frozen_or_tuned(trained: bool) -> None:
    torch.manual_seed(0)
    model = TextClassifier(vocabulary_size=5, embedding_size=4, train_embedding=trained)
    vectors = torch.randn(5, 4)
    model.load_vectors(vectors)
    assert torch.equal(model.embedding.weight[1:], vectors[1:])
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    model(torch.tensor([[1, 2, 3, 0]])).sum().backward()
    optimizer.step()
    assert torch.equal(model.embedding.weight[1:4], vectors[1:4]) is not trained
    assert not model.embedding.weight[0].any()


@pytest.mark.parametrize("kind", KINDS)
def test_classifier_learns_an_order_that_the_mean_cannot(kind: str) -> None:
    """Whether word 1 comes before word 2: both texts have the same words."""
    torch.manual_seed(0)
    texts = torch.tensor([[1, 3, 2], [2, 3, 1], [1, 2, 3], [2, 1, 3]])
    labels = torch.tensor([[1.0], [0.0], [1.0], [0.0]])

    def loss_after_training(kind: str) -> float:
        fields = {"vocabulary_size": 4, "embedding_size": 4, "hidden_size": 8, "num_layers": 1, "dropout": 0.0}
        model = make_model("text_classifier", kind=kind, **fields)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
        for _ in range(100):
            loss = nn.functional.binary_cross_entropy_with_logits(model(texts), labels)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
        return loss.item()

    assert loss_after_training(kind) < 0.05
    assert loss_after_training("mean") > 0.69


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (torch.tensor([[1, 20]]), "from 1 to 20, but the vocabulary only from 0 to 19"),
        (torch.tensor([[-1, 2]]), "from -1 to 2"),
        (torch.tensor([[0.5]]), "of integers, not"),
        (torch.tensor([1, 2]), "of integers, not"),
    ],
)
def test_words_that_cannot_be_looked_up_are_errors(words: torch.Tensor, message: str) -> None:
    with pytest.raises(RlkitError, match=message):
        TextClassifier(vocabulary_size=20)(words)


def test_vectors_of_another_size_are_an_error() -> None:
    with pytest.raises(RlkitError, match=r"the vectors are \[20, 50\], .* = \[20, 100\]"):
        TextClassifier(vocabulary_size=20).load_vectors(torch.zeros(20, 50))


# Language models


def test_perplexity_of_known_probabilities() -> None:
    assert perplexity([math.log(1 / 8)] * 5) == pytest.approx(8)
    assert perplexity([math.log(0.5), math.log(0.125)]) == pytest.approx(4)  # a geometric mean
    assert perplexity([-math.inf, 0.0]) == math.inf
    assert perplexity([]) == 1.0


def test_ngrams_are_relative_frequencies() -> None:
    text = [0, 1, 0, 1, 0, 2]
    model = NGram(n=2, vocabulary_size=3, smoothing=0).fit(text)
    assert model.probability(1, [0]) == pytest.approx(2 / 3)
    assert model.probability(2, [5, 0]) == pytest.approx(1 / 3)  # of the context, only the last token counts
    assert model.probability(0) == pytest.approx(3 / 6)
    assert model.probability(0, [2]) == pytest.approx(1 / 3)  # nothing came behind 2: uniform
    assert model.log_probs([0, 1]) == pytest.approx([math.log(0.5), math.log(2 / 3)])
    assert model.log_probs([0, 0])[1] == -math.inf


def test_smoothing_adds_to_each_count() -> None:
    model = NGram(n=2, vocabulary_size=3, smoothing=1).fit([0, 1, 0, 1, 0, 2])
    assert model.probability(0, [0]) == pytest.approx(1 / 6)
    assert sum(model.probability(token, [0]) for token in range(3)) == pytest.approx(1)


def test_longer_contexts_tell_more_of_a_text_with_memory() -> None:
    text = [0, 0, 1, 1] * 50
    uncertain = [perplexity(NGram(n=n, vocabulary_size=2, smoothing=0).fit(text).log_probs(text)) for n in (1, 2, 3)]
    assert uncertain[0] == pytest.approx(2)
    assert uncertain[0] > uncertain[1] - 1e-9 > uncertain[2]
    assert uncertain[2] < 1.02


def test_rnn_language_model_beats_bigrams_on_a_text_with_memory() -> None:
    torch.manual_seed(0)
    text = [0, 0, 1, 1] * 12
    model = RNNLanguageModel(vocabulary_size=2, embedding_size=8, hidden_size=8, tied=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    tokens = torch.tensor([text])
    for _ in range(80):
        optimizer.zero_grad()
        torch.autograd.backward(-model.log_probs(tokens).mean())
        optimizer.step()
    bigrams = NGram(n=2, vocabulary_size=2, smoothing=0).fit(text)
    assert perplexity(model.log_probs(tokens).detach()[0]) < 1.2 < 1.8 < perplexity(bigrams.log_probs(text))
    generated = model.generate(torch.tensor([[0, 0]]), 6, temperature=0.05)
    assert generated.tolist() == [[1, 1, 0, 0, 1, 1]]


def test_generating_is_repeatable_and_goes_on_from_states() -> None:
    torch.manual_seed(0)
    model = RNNLanguageModel(vocabulary_size=5, kind="lstm", num_layers=2)
    prompt = torch.tensor([[1, 2], [3, 4]])
    drawn = [model.generate(prompt, 4, generator=torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(drawn[0], drawn[1])
    assert drawn[0].shape == (2, 4)
    whole, _ = model(prompt)
    first, states = model(prompt[:, :1])
    second, _ = model(prompt[:, 1:], states)
    torch.testing.assert_close(torch.cat([first, second], 1), whole)


def test_language_models_say_what_cannot_work() -> None:
    with pytest.raises(RlkitError, match="tied=true needs embedding_size=64 equal to hidden_size=128"):
        RNNLanguageModel(vocabulary_size=5, tied=True)
    with pytest.raises(RlkitError, match="n=0 is out of range"):
        NGram(n=0, vocabulary_size=3)
    with pytest.raises(RlkitError, match="tokens must be from 0 to 2, not 0 to 3"):
        NGram(vocabulary_size=3).fit([0, 3])
