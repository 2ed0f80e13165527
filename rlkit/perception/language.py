"""The task of a language model: the next token, how surprising a text is, and texts of its own."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from rlkit.errors import RlkitError, check_range
from rlkit.perception.data.language import END, joined, stream_of
from rlkit.perception.data.samples import Batch, Data, TensorSamples
from rlkit.perception.inputs import Inputs
from rlkit.perception.models.language import NGram, RNNLanguageModel, perplexity
from rlkit.perception.task import Task
from rlkit.runs.files import write_text

CHUNK = 1000
"""Tokens at a time when a whole text is read."""
PSEUDO_COUNTS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
JUDGED = 20_000
"""Tokens of the validation text by which n-grams choose one of them."""


class LanguageModeling(Task):
    """The next token of a text: cross-entropy in nats per token.

    At the end the test text is read in one go, the state being carried on: `perplexity`. Beside it are those of
    n-grams, for each n of `ngrams`, on the same tokens (`perplexity_3gram`). `generate` tokens are drawn from each into
    samples.txt, with logits divided by each of the `temperatures`.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        ngrams: Sequence[int] = (1, 2, 3),
        generate: int = 400,
        temperatures: Sequence[float] = (0.5, 1.0),
    ) -> None:
        super().__init__(model)
        if not isinstance(model, RNNLanguageModel):
            raise RlkitError(f"task=language_modeling trains RNNLanguageModel, not {type(model).__name__}")
        _check_list("task.ngrams", ngrams, int)
        for n in ngrams:
            check_range("task.ngrams", n, 1)
        _check_list("task.temperatures", temperatures, (int, float))
        for temperature in temperatures:
            check_range("task.temperatures", temperature, 0, exclusive=True)
        check_range("task.generate", generate, 0)
        self.ngrams, self.generate, self.temperatures = list(ngrams), generate, list(temperatures)

    @property
    def network(self) -> RNNLanguageModel:
        """The model."""
        return cast(RNNLanguageModel, self.model)

    def measure(self, batch: Batch) -> dict[str, Tensor]:
        """Loss, and how often the likeliest token is the next; each window is read without what was before it."""
        if batch.targets.shape != batch.inputs.shape:
            raise RlkitError("task=language_modeling needs running text: data=text")
        logits, _ = self.network(batch.inputs)  # (batch, length, vocabulary)
        loss = functional.cross_entropy(logits.flatten(0, 1), batch.targets.flatten())
        return {"loss": loss, "accuracy": (logits.argmax(2) == batch.targets).float().mean()}

    @torch.no_grad()
    def finish(self, data: Data, inputs: Inputs, folder: Path | None) -> dict[str, float]:
        """Perplexities of the test text, and texts of its own."""
        train, test = (stream_of(cast(TensorSamples, part)) for part in (data.train, data.test))
        known = stream_of(cast(TensorSamples, data.validation)) if data.validation else train[-len(train) // 10 :]
        results = {"perplexity": perplexity(self.read(test))}
        models = count_ngrams(train.tolist(), known[:JUDGED].tolist(), len(data.vocabulary), self.ngrams)
        for model in models:
            results[f"perplexity_{model.n}gram"] = perplexity(model.log_probs(test.tolist())[1:])
        if folder is not None and self.generate:
            write_text(folder / "samples.txt", self.samples(data.vocabulary, models, test.device))
        return results

    def read(self, stream: Tensor) -> Tensor:
        """log p(token | all before) of each token of a text but the first: (tokens,) -> (tokens − 1,), in float64."""
        found, states = [], None
        for start in range(0, len(stream) - 1, CHUNK):
            tokens = stream[start : start + CHUNK + 1]
            logits, states = self.network(tokens[None, :-1], states)
            log_probs = logits[0].double().log_softmax(1)
            found.append(log_probs.gather(1, tokens[1:, None])[:, 0])
        return torch.cat(found)

    def samples(self, vocabulary: Sequence[str], ngrams: Sequence[NGram], device: torch.device) -> str:
        """What the models write behind the end of a text."""
        start = vocabulary.index(END)
        generator = torch.Generator(device).manual_seed(0)
        parts = []
        for temperature in self.temperatures:
            prompt = torch.tensor([[start]], device=device)
            drawn = self.network.generate(prompt, self.generate, temperature=temperature, generator=generator)[0]
            parts.append((f"the network, temperature {temperature:g}", drawn.tolist()))
        on_cpu = torch.Generator().manual_seed(0)
        for model in ngrams:
            parts.append((f"{model.n}-gram", model.generate([start], self.generate, generator=on_cpu)))
        return "\n\n".join(f"--- {name} ---\n\n{joined(tokens, vocabulary).strip()}" for name, tokens in parts) + "\n"


def count_ngrams(
    train: Sequence[int], known: Sequence[int], vocabulary_size: int, lengths: Sequence[int]
) -> list[NGram]:
    """Interpolated n-grams of the training text, one for each n in `lengths`.

    Each has the pseudo-count, of a few, that makes `known`, a text it has not counted, least surprising.
    """
    counted = NGram(n=max(lengths, default=1), vocabulary_size=vocabulary_size, interpolate=True).fit(train)
    chosen = []
    for n in lengths:
        candidates: list[tuple[float, NGram]] = []
        for smoothing in PSEUDO_COUNTS:
            model = copy.copy(counted)  # with the same counts
            model.n, model.smoothing = n, smoothing
            candidates.append((math.fsum(model.log_probs(known)), model))
        chosen.append(max(candidates, key=lambda candidate: candidate[0])[1])
    return chosen


def _check_list(name: str, values: object, kinds: type | tuple[type, ...]) -> None:
    if not isinstance(values, list | tuple) or not all(isinstance(value, kinds) for value in values):
        raise RlkitError(f"{name}={values}: expected a list of {'integers' if kinds is int else 'numbers'}: [1, 2]")
