"""A classifier of texts, which are sequences of word numbers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rlkit.errors import RlkitError, check_range
from rlkit.perception.models.recurrent import Recurrent


class TextClassifier(nn.Module):
    """A text classifier: an embedding, recurrent layers, and a linear layer on the state behind the last word.

    `kind` is rnn, lstm, gru, or `mean`, which takes the mean of the words' vectors and ignores their order. Word 0 is
    padding before or behind the text, and its vector is 0. `train_embedding=false` freezes the vectors, which
    `load_vectors` can set. A single output is the logit of a yes; several are the logits of classes. Raises RlkitError
    for fields that cannot work and for word numbers outside the vocabulary.
    """

    def __init__(
        self,
        *,
        vocabulary_size: int = 10_000,
        num_outputs: int = 1,
        embedding_size: int = 100,
        hidden_size: int = 64,
        kind: str = "rnn",
        num_layers: int = 2,
        dropout: float = 0.5,
        train_embedding: bool = True,
        implementation: str = "torch",
    ) -> None:
        super().__init__()
        check_range("vocabulary_size", vocabulary_size, 2)
        self.embedding = nn.Embedding(vocabulary_size, embedding_size, padding_idx=0)
        with torch.no_grad():  # torch's own N(0, 1) would saturate the recurrent layers
            self.embedding.weight.uniform_(-0.05, 0.05)
            self.embedding.weight[0] = 0
        self.embedding.weight.requires_grad_(train_embedding)
        self.recurrent: Recurrent | None = None
        if kind != "mean":
            self.recurrent = Recurrent(
                embedding_size,
                hidden_size,
                kind=kind,
                num_layers=num_layers,
                dropout=dropout,
                implementation=implementation,
            )
        self.feature_size = embedding_size if self.recurrent is None else hidden_size
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(self.feature_size, num_outputs)

    def load_vectors(self, vectors: Tensor) -> None:
        """Sets the embedding to pre-trained vectors, (vocabulary_size, embedding_size).

        Raises RlkitError for another shape.
        """
        if vectors.shape != self.embedding.weight.shape:
            raise RlkitError(
                f"the vectors are {list(vectors.shape)}, but the embedding is (vocabulary_size, embedding_size) = "
                f"{list(self.embedding.weight.shape)}"
            )
        with torch.no_grad():
            self.embedding.weight.copy_(vectors)
            self.embedding.weight[0] = 0

    def encode(self, words: Tensor) -> Tensor:
        """Returns the features of texts, which are word numbers: (batch, words) -> (batch, feature_size)."""
        if words.dim() != 2 or words.dtype not in (torch.int64, torch.int32):
            raise RlkitError(f"texts are (batch, words) of integers, not {list(words.shape)} of {words.dtype}")
        if words.numel() and not 0 <= int(words.min()) <= int(words.max()) < self.embedding.num_embeddings:
            raise RlkitError(
                f"word numbers go from {int(words.min())} to {int(words.max())}, but the vocabulary only from 0 to "
                f"{self.embedding.num_embeddings - 1}"
            )
        vectors = self.embedding(words)  # (batch, words, embedding_size)
        is_word = words != 0
        if self.recurrent is None:
            return torch.sum(vectors, 1) / is_word.sum(1, keepdim=True).clamp(min=1)
        outputs, _ = self.recurrent(vectors)  # (batch, words, hidden_size)
        positions = torch.arange(words.shape[1], device=words.device)
        last = (is_word * positions).max(1).values  # the last word's position; 0 in a text without words
        features: Tensor = outputs[torch.arange(words.shape[0], device=words.device), last]
        return features

    def forward(self, words: Tensor) -> Tensor:
        """Returns the logits of texts, which are word numbers: (batch, words) -> (batch, num_outputs)."""
        logits: Tensor = self.head(self.dropout(self.encode(words)))
        return logits
