"""Language models, which give the probability of the next token: n-grams by counting, and a recurrent network."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rlkit.errors import RlkitError, check_range
from rlkit.perception.models.recurrent import Recurrent, State


def perplexity(log_probs: Tensor | Sequence[float]) -> float:
    """Perplexity, exp of the mean of −log p(token | tokens before).

    It is the number of equally likely tokens among which a model would be as uncertain.
    """
    values = torch.as_tensor(log_probs, dtype=torch.float64)
    return math.exp(-float(values.mean())) if values.numel() else 1.0


class NGram:
    """An n-gram model: p(token | the n − 1 tokens before) by counting; `smoothing` is added to every count (Laplace).

    With smoothing 0 the probabilities are relative frequencies, 0 for a token that was never seen. With `interpolate`,
    `smoothing` is the number of counts that are added to a context in all. They are not distributed evenly, but by the
    probabilities in the context that is shorter by one token, which is smoothed likewise (MacKay & Peto 1995). The
    first tokens of a text, before which there are fewer than n − 1, have shorter contexts. Raises RlkitError for
    numbers that cannot work.
    """

    def __init__(self, *, n: int = 2, vocabulary_size: int, smoothing: float = 1.0, interpolate: bool = False) -> None:
        check_range("n", n, 1)
        check_range("vocabulary_size", vocabulary_size, 1)
        check_range("smoothing", smoothing, 0)
        self.n, self.vocabulary_size, self.smoothing, self.interpolate = n, vocabulary_size, smoothing, interpolate
        self.counts: Counter[tuple[int, ...]] = Counter()
        self.contexts: Counter[tuple[int, ...]] = Counter()

    def fit(self, tokens: Sequence[int]) -> NGram:
        """Counts the tokens of a text in every context of up to n − 1 tokens."""
        if tokens and not 0 <= min(tokens) <= max(tokens) < self.vocabulary_size:
            raise RlkitError(f"tokens must be from 0 to {self.vocabulary_size - 1}, not {min(tokens)} to {max(tokens)}")
        for i, token in enumerate(tokens):
            for length in range(min(self.n, i + 1)):
                context = tuple(tokens[i - length : i])
                self.counts[(*context, token)] += 1
                self.contexts[context] += 1
        return self

    def probability(self, token: int, context: Sequence[int] = ()) -> float:
        """Returns p(token | the last n − 1 tokens of `context`); 1 / vocabulary_size if nothing was counted."""
        known = tuple(context[max(0, len(context) - self.n + 1) :])
        expected = 1 / self.vocabulary_size
        added = self.smoothing if self.interpolate else self.smoothing * self.vocabulary_size
        for start in range(len(known), -1, -1) if self.interpolate else (0,):
            total = self.contexts.get(known[start:], 0) + added
            if total:
                expected = (self.counts.get((*known[start:], token), 0) + added * expected) / total
        return expected

    def log_probs(self, tokens: Sequence[int]) -> list[float]:
        """Returns log p of each token of a text; −∞ for a probability of 0."""
        found = [self.probability(token, tokens[max(0, i - self.n + 1) : i]) for i, token in enumerate(tokens)]
        return [math.log(p) if p > 0 else -math.inf for p in found]

    def generate(self, tokens: Sequence[int], count: int, *, generator: torch.Generator | None = None) -> list[int]:
        """Draws `count` tokens one after the other, which continue `tokens`."""
        text = list(tokens)
        for _ in range(count):
            context = text[max(0, len(text) - self.n + 1) :]
            p = torch.tensor([self.probability(token, context) for token in range(self.vocabulary_size)])
            text.append(int(torch.multinomial(p, 1, generator=generator)))
        return text[len(tokens) :]


class RNNLanguageModel(nn.Module):
    """A language model of an embedding, recurrent layers, and a linear layer for the logits of the next token.

    With `tied`, the linear layer's weights are the embedding's vectors, which needs embedding_size = hidden_size.
    Raises RlkitError for fields that cannot work.
    """

    def __init__(
        self,
        *,
        vocabulary_size: int,
        embedding_size: int = 64,
        hidden_size: int = 128,
        kind: str = "gru",
        num_layers: int = 1,
        dropout: float = 0.0,
        tied: bool = False,
        implementation: str = "torch",
    ) -> None:
        super().__init__()
        if tied and embedding_size != hidden_size:
            raise RlkitError(f"tied=true needs embedding_size={embedding_size} equal to hidden_size={hidden_size}")
        self.embedding = nn.Embedding(vocabulary_size, embedding_size)
        self.recurrent = Recurrent(
            embedding_size,
            hidden_size,
            kind=kind,
            num_layers=num_layers,
            dropout=dropout,
            implementation=implementation,
        )
        self.head = nn.Linear(hidden_size, vocabulary_size)
        if tied:  # vectors of about length 1, because torch's N(0, 1) would make the first logits about √hidden_size
            nn.init.normal_(self.embedding.weight, std=1 / math.sqrt(embedding_size))
            self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor, states: list[State] | None = None) -> tuple[Tensor, list[State]]:
        """Returns logits of the token after each one, (batch, steps, vocabulary_size), and the states to go on with.

        `tokens` is (batch, steps).
        """
        outputs, states = self.recurrent(self.embedding(tokens), states)
        return self.head(outputs), states

    def log_probs(self, tokens: Tensor) -> Tensor:
        """Returns log p(token | tokens before) of all tokens but the first: (batch, steps) -> (batch, steps − 1)."""
        logits, _ = self(tokens[:, :-1])
        found: Tensor = logits.log_softmax(2).gather(2, tokens[:, 1:, None])[:, :, 0]
        return found

    @torch.no_grad()
    def generate(
        self, tokens: Tensor, count: int, *, temperature: float = 1.0, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draws tokens one after the other, which continue `tokens`: (batch, steps) -> (batch, count)."""
        check_range("temperature", temperature, 0, exclusive=True)
        drawn: list[Tensor] = []
        states: list[State] | None = None
        for _ in range(count):
            logits, states = self(tokens, states)
            tokens = torch.multinomial((logits[:, -1] / temperature).softmax(1), 1, generator=generator)
            drawn.append(tokens)
        return torch.cat(drawn, 1)
