"""Recurrent networks, both as cells written out and as torch's layers, which agree for equal weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from rlkit.errors import unknown

State = Tensor | tuple[Tensor, Tensor]
"""State that a layer carries from step to step: h, (batch, hidden_size), and for an LSTM the pair of h and c."""
GATES = {"rnn": 1, "lstm": 4, "gru": 3}
"""Number of gates of each kind of cell, counting the candidate for the new state."""


class Cell(nn.Module):
    """The weights of one recurrent layer, (gates · hidden_size, …), with torch's names and initial distribution."""

    def __init__(self, input_size: int, hidden_size: int, gates: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.weight_ih = nn.Parameter(torch.empty(gates * hidden_size, input_size))
        self.weight_hh = nn.Parameter(torch.empty(gates * hidden_size, hidden_size))
        self.bias_ih = nn.Parameter(torch.empty(gates * hidden_size))
        self.bias_hh = nn.Parameter(torch.empty(gates * hidden_size))
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -1 / math.sqrt(hidden_size), 1 / math.sqrt(hidden_size))

    def parts(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the contributions of the input and of the state to all gates, each (batch, gates · hidden_size)."""
        return functional.linear(x, self.weight_ih, self.bias_ih), functional.linear(h, self.weight_hh, self.bias_hh)


class RNNCell(Cell):
    """The cell of a simple recurrent network, h' = tanh(W_x x + W_h h + b)."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size, GATES["rnn"])

    def forward(self, x: Tensor, state: Tensor) -> Tensor:
        """Returns the next state, (batch, hidden_size), from an input, (batch, input_size), and a state."""
        from_input, from_state = self.parts(x, state)
        return torch.tanh(from_input + from_state)


class LSTMCell(Cell):
    """The cell of an LSTM, c' = f ⊙ c + i ⊙ c̃ and h' = o ⊙ tanh c' (Hochreiter & Schmidhuber 1997).

    The gates f, i and o decide what is forgotten, taken in and given out; f was added later. f = 1 and i = 0 remembers,
    f = 1 and i = 1 adds up, f = 0 and i = 1 overwrites, f = 0 and i = 0 erases.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size, GATES["lstm"])

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Returns the next (h, c), each (batch, hidden_size), from an input, (batch, input_size), and (h, c)."""
        h, c = state
        from_input, from_state = self.parts(x, h)
        i, f, candidate, o = (from_input + from_state).chunk(4, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(candidate)
        return torch.sigmoid(o) * torch.tanh(c), c


class GRUCell(Cell):
    """The cell of a GRU, h' = (1 − z) ⊙ h̃ + z ⊙ h with h̃ = tanh(W_x x + b_x + r ⊙ (W_h h + b_h)) (Cho et al. 2014).

    As in torch, z = 1 keeps the old state, and the reset gate r is applied after the matrix. Some texts have z the
    other way round, and r before the matrix; their weights are not interchangeable with these.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size, GATES["gru"])

    def forward(self, x: Tensor, state: Tensor) -> Tensor:
        """Returns the next state, (batch, hidden_size), from an input, (batch, input_size), and a state."""
        (xr, xz, xn), (hr, hz, hn) = (part.chunk(3, 1) for part in self.parts(x, state))
        r, z = torch.sigmoid(xr + hr), torch.sigmoid(xz + hz)
        return (1 - z) * torch.tanh(xn + r * hn) + z * state


CELLS: dict[str, type[RNNCell | LSTMCell | GRUCell]] = {"rnn": RNNCell, "lstm": LSTMCell, "gru": GRUCell}
LAYERS: dict[str, type[nn.RNN | nn.LSTM | nn.GRU]] = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}


class CellLayer(nn.Module):
    """A cell that is applied step by step, which shows plainly what torch's recurrent layer computes."""

    def __init__(self, kind: str, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.cell = CELLS[kind](input_size, hidden_size)
        self.is_lstm = kind == "lstm"

    def forward(self, inputs: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Returns h of every step, (batch, steps, hidden_size), and the last state, from (batch, steps, input_size)."""
        if state is None:
            zeros = inputs.new_zeros(len(inputs), self.cell.hidden_size)
            state = (zeros, zeros) if self.is_lstm else zeros
        outputs = []
        for x in inputs.unbind(1):
            state = self.cell(x, state)
            outputs.append(state[0] if isinstance(state, tuple) else state)
        return torch.stack(outputs, 1), state


class TorchLayer(nn.Module):
    """Torch's recurrent layer with the interface of CellLayer; it is several times faster."""

    def __init__(self, kind: str, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.layer = LAYERS[kind](input_size, hidden_size, batch_first=True)

    def forward(self, inputs: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Returns h of every step, (batch, steps, hidden_size), and the last state, from (batch, steps, input_size)."""
        if isinstance(state, tuple):
            state = (state[0][None], state[1][None])  # torch's states have a first dimension for stacked layers
        elif state is not None:
            state = state[None]
        outputs, last = self.layer(inputs, state)
        return outputs, (last[0][0], last[1][0]) if isinstance(last, tuple) else last[0]


class Recurrent(nn.Module):
    """Recurrent layers stacked on each other, with dropout on the input of each.

    The dropout mask stays the same at every step of a text (Gal & Ghahramani 2016), as in Keras: otherwise the next
    step would show what a step has hidden. `kind` is rnn, lstm or gru; `implementation` is `torch` or `cells`. Raises
    RlkitError for others.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        kind: str = "gru",
        num_layers: int = 1,
        dropout: float = 0.0,
        implementation: str = "torch",
    ) -> None:
        super().__init__()
        if kind not in CELLS:
            raise unknown("kind", kind, CELLS)
        layers = {"torch": TorchLayer, "cells": CellLayer}
        if implementation not in layers:
            raise unknown("implementation", implementation, layers)
        make = layers[implementation]
        self.layers = nn.ModuleList(
            make(kind, input_size if i == 0 else hidden_size, hidden_size) for i in range(num_layers)
        )
        self.dropout = nn.Dropout(dropout)
        self.hidden_size = hidden_size
        self._initialise(kind)

    def _initialise(self, kind: str) -> None:
        """Draws orthogonal weights for states, which keep their length over many steps, and Xavier's for inputs.

        Biases are 0, except that an LSTM's forget gate starts open with a bias of 1 (Jozefowicz et al. 2015).
        """
        for name, parameter in self.named_parameters():
            # The weights of all gates are one tensor, and so are their biases.
            gates = torch.split(parameter.detach(), self.hidden_size)
            for gate in gates:
                if "weight_hh" in name:
                    nn.init.orthogonal_(gate)
                elif "weight_ih" in name:
                    nn.init.xavier_uniform_(gate)
                else:
                    nn.init.zeros_(gate)
            if kind == "lstm" and "bias_ih" in name:
                nn.init.ones_(gates[1])

    def forward(self, inputs: Tensor, states: list[State] | None = None) -> tuple[Tensor, list[State]]:
        """Returns the top layer's h, (batch, steps, hidden_size), and the last state of each layer.

        `inputs` is (batch, steps, input_size).
        """
        last = []
        for i, layer in enumerate(self.layers):
            mask = self.dropout(torch.ones_like(inputs[:, :1]))  # (batch, 1, features)
            inputs, state = layer(inputs * mask, states[i] if states else None)
            last.append(state)
        return inputs, last


def copy_weights(source: Recurrent, target: Recurrent) -> None:
    """Copies the weights of `source` into `target`, whose implementation may be the other one."""
    for ours, theirs in zip(target.parameters(), source.parameters(), strict=True):
        with torch.no_grad():
            ours.copy_(theirs)  # torch and the cells have one order: weight_ih, weight_hh, bias_ih, bias_hh
