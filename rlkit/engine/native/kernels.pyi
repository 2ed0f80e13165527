"""The C engine's Python interface (c/module.c). Arrays are C-contiguous; wrong types and shapes are ValueErrors."""

from rlkit.spaces import Array

class MLP:
    """Linear layers with an activation after each but the last, on memory that is the caller's.

    A layer is its weights, (outputs, inputs), its biases, (outputs,), and their gradients, of the same shapes: float32.
    The activation is "tanh", "relu" or "identity". One thread at a time may compute; another gets a RuntimeError.
    """

    def __init__(self, layers: list[tuple[Array, ...]], activation: str) -> None: ...
    def forward(self, x: Array, outputs: Array) -> None:
        """Writes the outputs, (rows, outputs), of x, (rows, inputs); keeps the activations for `backward`."""

    def backward(self, x: Array, d_outputs: Array) -> None:
        """Writes the gradients, from d loss / d outputs of the last `forward`, whose x this must be."""

def clip_global_norm(gradient: Array, max_norm: float) -> float:
    """Scales the gradient down to `max_norm` where its norm is larger; returns the norm before."""

def adam(
    parameters: Array,
    gradient: Array,
    exp_avg: Array,
    exp_avg_sq: Array,
    steps: int,
    learning_rate: float,
    beta1: float,
    beta2: float,
    eps: float,
) -> None:
    """One step on (size,) float32 arrays; `steps` counts it."""

def rmsprop(
    parameters: Array, gradient: Array, square_avg: Array, learning_rate: float, alpha: float, eps: float
) -> None:
    """One step on (size,) float32 arrays."""

def policy_loss(
    head: str,
    part_sizes: Array,
    objective: str,
    coefficients: tuple[float, ...],
    params: Array,
    values: Array,
    action: Array,
    advantages: Array,
    returns: Array,
    log_prob: Array | None,
    old_params: Array | None,
    old_values: Array | None,
    d_params: Array,
    d_values: Array,
) -> tuple[float, float, float, float, float]:
    """Writes d loss / d params and d loss / d values; returns policy loss, value loss, entropy, approximate KL and clip
    fraction.

    `head`: "categorical", whose actions are int64, "bernoulli" or "gaussian", float32; all (rows, parts).
    `objective`: "log_prob", "clip" or "kl". `coefficients`: clip_coef, kl_coef, clip_value_coef (infinity: values may
    move as far as they like), ent_coef, vf_coef, and what the sums of policy and entropy terms are divided by.
    `log_prob`, `old_params` and `old_values` are looked at only where that takes them. A categorical action out of
    range is a ValueError.
    """

def td_loss(
    q_values: Array,
    action: Array,
    targets: Array,
    weights: Array | None,
    loss: str,
    d_q_values: Array,
    td_errors: Array,
) -> float:
    """Writes d loss / d action values and the TD errors; returns the loss, "mse" or "huber"."""
