"""Python interface of the C engine (c/module.c); arrays are C-contiguous, and wrong types or shapes are ValueErrors."""

from rlkit.spaces import Array

def available_simd() -> tuple[str, ...]:
    """Returns the vector instructions that the engine can use on this processor, widest first."""

def simd() -> str:
    """Returns the vector instructions in use: "avx2", "avx512" or "neon"."""

def use_simd(name: str) -> None:
    """Computes with these vector instructions from now on, and MLPs that are made from now on do.

    Raises ValueError for those that this processor does not have.
    """

class MLP:
    """Linear layers with an activation after all but the last, on memory that the caller owns.

    A layer is its weights, (outputs, inputs), its biases, (outputs,), and their gradients, of the same shapes: float32.
    A hidden one may have a layer normalisation before the activation: gain, shift and their gradients, all (outputs,),
    follow. The activation is "tanh", "relu", "elu", "silu", "gelu", "leaky_relu" or "identity". One thread at a time
    may compute; a second one gets a RuntimeError.
    """

    def __init__(self, layers: list[tuple[Array, ...]], activation: str) -> None: ...
    def forward(self, x: Array, outputs: Array) -> None:
        """Computes `outputs`, (rows, outputs), of x, (rows, inputs), and keeps the activations for `backward`."""

    def backward(self, x: Array, d_outputs: Array) -> None:
        """Writes the gradients, given d loss / d outputs of the last `forward` and its x."""

def clip_global_norm(gradient: Array, max_norm: float) -> float:
    """Scales the gradient down if its norm exceeds `max_norm`; returns the norm before that."""

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
    """Takes one step of Adam on (size,) float32 arrays; `steps` is its number, from 1 on."""

def rmsprop(
    parameters: Array, gradient: Array, square_avg: Array, learning_rate: float, alpha: float, eps: float
) -> None:
    """Takes one step of RMSProp on (size,) float32 arrays."""

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
    """Writes d loss / d params and d loss / d values, and returns the loss's metrics.

    The metrics are policy loss, value loss, entropy, approximate KL and clip fraction. `head` is "categorical", with
    int64 actions, or "bernoulli" or "gaussian", with float32 ones; actions are (rows, parts). `objective` is
    "log_prob", "clip" or "kl". `coefficients` are clip_coef, kl_coef, clip_value_coef (infinity: no bound), ent_coef,
    vf_coef, and the divisor of the sums of policy and entropy terms. `log_prob`, `old_params` and `old_values` may be
    None if the objective and the coefficients do not need them. A categorical action out of range is a ValueError.
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
    """Writes d loss / d action values and the TD errors, and returns the loss, which is "mse" or "huber"."""
