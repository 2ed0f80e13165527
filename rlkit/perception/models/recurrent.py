"""Recurrent networks, as cells written out and as torch's layers, which agree for the same weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from rlkit.errors import unknown

State = Tensor | tuple[Tensor, Tensor]
"""What is carried from step to step: h, (batch, hidden_size); for an LSTM h and c."""
GATES = {"rnn": 1, "lstm": 4, "gru": 3}


class Cell(nn.Module):
    """The weights of one layer under torch's names: (gates · hidden_size, …), and its initial distribution."""

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
        """What the input and the state contribute to all gates: both (batch, gates · hidden_size)."""
        return functional.linear(x, self.weight_ih, self.bias_ih), functional.linear(h, self.weight_hh, self.bias_hh)


class RNNCell(Cell):
    """h' = tanh(W_x x + W_h h + b)."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size, GATES["rnn"])

    def forward(self, x: Tensor, state: Tensor) -> Tensor:
        """(batch, input_size) and (batch, hidden_size) -> the next state."""
        from_input, from_state = self.parts(x, state)
        return torch.tanh(from_input + from_state)


class LSTMCell(Cell):
    """c' = f ⊙ c + i ⊙ c̃ and h' = o ⊙ tanh c': what to forget, to take in and to give out.

    Hochreiter & Schmidhuber 1997; f is its later addition. f = 1, i = 0 remembers; f = 1, i = 1 adds up; f = 0, i = 1
    overwrites; f = 0, i = 0 erases.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size, GATES["lstm"])

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """(batch, input_size) and (h, c), each (batch, hidden_size) -> the next (h, c)."""
        h, c = state
        from_input, from_state = self.parts(x, h)
        i, f, candidate, o = (from_input + from_state).chunk(4, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(candidate)
        return torch.sigmoid(o) * torch.tanh(c), c


class GRUCell(Cell):
    """h' = (1 − z) ⊙ h̃ + z ⊙ h, with h̃ = tanh(W_x x + b_x + r ⊙ (W_h h + b_h)) (Cho et al. 2014).

    As in torch, z = 1 keeps the old state and the reset gate r acts behind the matrix; some texts have z the other way
    round, and r before the matrix. Both learn the same functions of an input at their best, with other weights.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size, GATES["gru"])

    def forward(self, x: Tensor, state: Tensor) -> Tensor:
        """(batch, input_size) and (batch, hidden_size) -> the next state."""
        (xr, xz, xn), (hr, hz, hn) = (part.chunk(3, 1) for part in self.parts(x, state))
        r, z = torch.sigmoid(xr + hr), torch.sigmoid(xz + hz)
        return (1 - z) * torch.tanh(xn + r * hn) + z * state


CELLS: dict[str, type[RNNCell | LSTMCell | GRUCell]] = {"rnn": RNNCell, "lstm": LSTMCell, "gru": GRUCell}
LAYERS: dict[str, type[nn.RNN | nn.LSTM | nn.GRU]] = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}


class CellLayer(nn.Module):
    """A cell applied step by step: what torch's layer of one level computes, in plain sight."""

    def __init__(self, kind: str, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.cell = CELLS[kind](input_size, hidden_size)
        self.is_lstm = kind == "lstm"

    def forward(self, inputs: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """(batch, steps, input_size) -> the h of every step, (batch, steps, hidden_size), and the last state."""
        if state is None:
            zeros = inputs.new_zeros(len(inputs), self.cell.hidden_size)
            state = (zeros, zeros) if self.is_lstm else zeros
        outputs = []
        for x in inputs.unbind(1):
            state = self.cell(x, state)
            outputs.append(state[0] if isinstance(state, tuple) else state)
        return torch.stack(outputs, 1), state


class TorchLayer(nn.Module):
    """The same by torch's own layer, which is several times faster."""

    def __init__(self, kind: str, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.layer = LAYERS[kind](input_size, hidden_size, batch_first=True)

    def forward(self, inputs: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """(batch, steps, input_size) -> the h of every step, (batch, steps, hidden_size), and the last state."""
        if isinstance(state, tuple):
            state = (state[0][None], state[1][None])  # torch's states have a dimension for the levels
        elif state is not None:
            state = state[None]
        outputs, last = self.layer(inputs, state)
        return outputs, (last[0][0], last[1][0]) if isinstance(last, tuple) else last[0]


class Recurrent(nn.Module):
    """Levels of recurrent layers above each other, with dropout on the input of each.

    The mask is the same at every step of a text (Gal & Ghahramani 2016, and Keras): what it hides in one step it does
    not show in the next.

    `kind` is rnn, lstm or gru; `implementation` is `torch` or `cells`. Raises RlkitError for others.
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
        """Orthogonal recurrent weights, which keep the state's length over many steps; Xavier's for inputs; biases 0.

        But for the forget gate's of LSTMs, which start open with a bias of 1 (Jozefowicz et al. 2015).
        """
        for name, parameter in self.named_parameters():
            gates = torch.split(
                parameter.detach(), self.hidden_size
            )  # the weights and biases of all gates are one tensor
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
        """(batch, steps, input_size) -> the top level's h, (batch, steps, hidden_size), and each level's state."""
        last = []
        for i, layer in enumerate(self.layers):
            mask = self.dropout(torch.ones_like(inputs[:, :1]))  # (batch, 1, features)
            inputs, state = layer(inputs * mask, states[i] if states else None)
            last.append(state)
        return inputs, last


def copy_weights(source: Recurrent, target: Recurrent) -> None:
    """Gives `target` the weights of `source`, whichever way each is implemented."""
    for ours, theirs in zip(target.parameters(), source.parameters(), strict=True):
        with torch.no_grad():
            ours.copy_(theirs)  # torch's order is the cells': weight_ih, weight_hh, bias_ih, bias_hh
