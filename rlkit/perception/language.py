"""The task of a language model: predict the next token, measure perplexity, and generate texts."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from functools import partial
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
from rlkit.perception.task import Better, Picture, Task
from rlkit.runs.files import write_text

CHUNK = 1000
"""Tokens that the network reads in one call when it reads a whole text."""
PSEUDO_COUNTS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
"""Pseudo-counts that are tried for the smoothing of each n-gram model."""
SMOOTHING_TOKENS = 20_000
"""Tokens of the validation text on which the best of the pseudo-counts is chosen."""


class LanguageModeling(Task):
    """Predict the next token of a text; the loss is the cross-entropy in nats per token.

    At the end, `perplexity` is measured on the whole test text, with the state carried on from its first token to its
    last. N-gram models, one for each n in `ngrams`, are measured on the same tokens (`perplexity_3gram`). Samples of
    `generate` tokens from every model are written to samples.txt; the network's are drawn once for each of the
    `temperatures`, by which its logits are divided.
    """

    better: Mapping[str, Better] = {"loss": "smaller", "accuracy": "larger"}

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
        self.counted: list[NGram] = []
        """N-gram models of the training text, which `finish` counts."""

    @property
    def network(self) -> RNNLanguageModel:
        """The model, typed as a language model."""
        return cast(RNNLanguageModel, self.model)

    def measure(self, batch: Batch) -> dict[str, Tensor]:
        """Loss, and the share of tokens that were predicted as likeliest; each window is read from an empty state."""
        if batch.targets.shape != batch.inputs.shape:
            raise RlkitError("task=language_modeling needs running text: data=text")
        logits, _ = self.network(batch.inputs)  # (batch, length, vocabulary)
        loss = functional.cross_entropy(logits.flatten(0, 1), batch.targets.flatten())
        return {"loss": loss, "accuracy": (logits.argmax(2) == batch.targets).float().mean()}

    @torch.no_grad()
    def finish(self, data: Data, inputs: Inputs) -> dict[str, float]:
        """Returns perplexities on the test text."""
        train, test = (stream_of(cast(TensorSamples, part)) for part in (data.train, data.test))
        known = stream_of(cast(TensorSamples, data.validation)) if data.validation else train[-len(train) // 10 :]
        results = {"perplexity": perplexity(self.read(test))}
        known = known[:SMOOTHING_TOKENS]
        self.counted = count_ngrams(train.tolist(), known.tolist(), len(data.vocabulary), self.ngrams)
        for model in self.counted:
            results[f"perplexity_{model.n}gram"] = perplexity(model.log_probs(test.tolist())[1:])
        return results

    def pictures(self, data: Data, inputs: Inputs) -> dict[str, Picture]:
        """Returns the function that writes generated texts to samples.txt."""
        return {"samples.txt": partial(self._write_samples, data)} if self.generate else {}

    def _write_samples(self, data: Data, path: Path) -> None:
        device = stream_of(cast(TensorSamples, data.test)).device
        write_text(path, self.samples(data.vocabulary, self.counted, device))

    def read(self, stream: Tensor) -> Tensor:
        """Returns log p(token | all before it) of each token but the first, in float64: (tokens,) -> (tokens − 1,).

        The text is read in chunks, between which the state is carried on, so that memory stays bounded.
        """
        found, states = [], None
        for start in range(0, len(stream) - 1, CHUNK):
            tokens = stream[start : start + CHUNK + 1]
            logits, states = self.network(tokens[None, :-1], states)
            log_probs = logits[0].double().log_softmax(1)
            found.append(log_probs.gather(1, tokens[1:, None])[:, 0])
        return torch.cat(found)

    def samples(self, vocabulary: Sequence[str], ngrams: Sequence[NGram], device: torch.device) -> str:
        """Returns texts that each model generates after an end-of-text token, under a heading per model."""
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
    """Fits interpolated n-gram models to the training text, one for each n in `lengths`.

    Each gets the pseudo-count of PSEUDO_COUNTS under which the text `known`, which should be held out, is likeliest.
    """
    counted = NGram(n=max(lengths, default=1), vocabulary_size=vocabulary_size, interpolate=True).fit(train)
    chosen = []
    for n in lengths:
        candidates: list[tuple[float, NGram]] = []
        for smoothing in PSEUDO_COUNTS:
            model = copy.copy(counted)  # a shallow copy: all models share the counts
            model.n, model.smoothing = n, smoothing
            candidates.append((math.fsum(model.log_probs(known)), model))
        chosen.append(max(candidates, key=lambda candidate: candidate[0])[1])
    return chosen


def _check_list(name: str, values: object, kinds: type | tuple[type, ...]) -> None:
    if not isinstance(values, list | tuple) or not all(isinstance(value, kinds) for value in values):
        raise RlkitError(f"{name}={values}: expected a list of {'integers' if kinds is int else 'numbers'}: [1, 2]")
