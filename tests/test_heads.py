"""Distributions of actions: closed forms, sampling, and the heads on arrays against torch's."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch.distributions import Bernoulli as TorchBernoulli
from torch.distributions import Categorical as TorchCategorical
from torch.distributions import Independent, Normal, kl_divergence

from rlkit.errors import RlkitError
from rlkit.networks.array_heads import array_head
from rlkit.networks.heads import Bernoulli, Categorical, Gaussian, Head, make_head
from rlkit.setting import NetworkConfig
from rlkit.spaces import MASKED_LOGIT, Array, masked

SPACES: dict[str, spaces.Space[Any]] = {
    "discrete": spaces.Discrete(3),
    "multi_discrete": spaces.MultiDiscrete([2, 4, 3]),
    "multi_binary": spaces.MultiBinary(3),
    "box": spaces.Box(-1, 1, (2,)),
}


def head_for(space: spaces.Space[Any], **network: Any) -> Head:
    return make_head(space, NetworkConfig(**network))


def params_of(head: Head, rows: int, seed: int) -> Array:
    return np.random.default_rng(seed).normal(size=(rows, head.num_params)).astype(np.float32)


def reference(head: Head, params: torch.Tensor) -> list[torch.distributions.Distribution]:
    """The same distribution in torch.distributions: independent parts whose log-probabilities add up."""
    if isinstance(head, Categorical):
        return [TorchCategorical(logits=part) for part in torch.split(params, head.sizes, 1)]
    if isinstance(head, Bernoulli):
        return [Independent(TorchBernoulli(logits=params), 1)]
    mean, log_std = params.chunk(2, 1)
    return [Independent(Normal(mean, log_std.exp()), 1)]


@pytest.mark.parametrize("name", SPACES)
def test_log_prob_entropy_and_kl_equal_torch_distributions(name: str) -> None:
    head = head_for(SPACES[name])
    old, new = (torch.from_numpy(params_of(head, 6, seed)) for seed in (0, 1))
    action = torch.from_numpy(head.sample(new.numpy(), np.random.default_rng(2)))
    parts, old_parts = reference(head, new), reference(head, old)
    columns = action.reshape(6, -1).unbind(1) if isinstance(head, Categorical) else [action.float()]
    log_prob = torch.stack([d.log_prob(a) for d, a in zip(parts, columns, strict=True)]).sum(0)
    torch.testing.assert_close(head.log_prob(new, action), log_prob)
    torch.testing.assert_close(head.entropy(new), torch.stack([d.entropy() for d in parts]).sum(0))
    kl = torch.stack([kl_divergence(p, q) for p, q in zip(old_parts, parts, strict=True)]).sum(0)
    torch.testing.assert_close(head.kl(old, new), kl)


def test_closed_forms() -> None:
    uniform = torch.zeros(1, 5)
    assert head_for(spaces.Discrete(5)).entropy(uniform).item() == pytest.approx(math.log(5))
    gaussian = head_for(spaces.Box(-1, 1, (1,)))
    old, new = torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, math.log(2)]])
    assert gaussian.kl(old, new).item() == pytest.approx(math.log(2) + (1 + 1) / 8 - 0.5)
    assert gaussian.entropy(old).item() == pytest.approx(0.5 * math.log(2 * math.pi * math.e))


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("with_old", [False, True])
def test_heads_on_arrays_evaluate_as_torchs_do(name: str, with_old: bool) -> None:
    head = head_for(SPACES[name])
    params, old = params_of(head, 7, 0), params_of(head, 7, 1)
    action = head.sample(params, np.random.default_rng(2))
    evaluated = array_head(head).evaluate(params, action, old if with_old else None)
    tensor = torch.from_numpy(params)
    np.testing.assert_allclose(evaluated.log_prob, head.log_prob(tensor, torch.from_numpy(action)), atol=1e-5)
    np.testing.assert_allclose(evaluated.entropy, head.entropy(tensor), atol=1e-5)
    assert (evaluated.kl is not None) is with_old
    if evaluated.kl is not None:
        np.testing.assert_allclose(evaluated.kl, head.kl(torch.from_numpy(old), tensor), atol=1e-5)


def test_categorical_samples_follow_the_softmax() -> None:
    head = head_for(spaces.Discrete(3))
    probabilities = np.array([0.2, 0.5, 0.3])
    params = np.tile(np.log(probabilities).astype(np.float32), (20_000, 1))
    counts = np.bincount(head.sample(params, np.random.default_rng(0)), minlength=3)
    chi_square = ((counts - 20_000 * probabilities) ** 2 / (20_000 * probabilities)).sum()
    assert chi_square < 13.8  # the 0.999 quantile with two degrees of freedom


def test_multi_discrete_dimensions_are_sampled_apart() -> None:
    head = head_for(spaces.MultiDiscrete([2, 3]))
    params = np.tile(np.log(np.array([0.9, 0.1, 0.2, 0.2, 0.6], np.float32)), (20_000, 1))
    sampled = head.sample(params, np.random.default_rng(0))
    assert sampled.shape == (20_000, 2)
    assert (sampled[:, 0] == 0).mean() == pytest.approx(0.9, abs=0.01)
    assert (sampled[:, 1] == 2).mean() == pytest.approx(0.6, abs=0.015)
    np.testing.assert_array_equal(head.mode(params[:1]), [[0, 2]])


def test_bits_are_sampled_by_their_own_probability() -> None:
    head = head_for(spaces.MultiBinary(2))
    params = np.tile(np.array([math.log(0.8 / 0.2), -100.0], np.float32), (20_000, 1))
    sampled = head.sample(params, np.random.default_rng(0))
    assert sampled[:, 0].mean() == pytest.approx(0.8, abs=0.01)
    assert sampled[:, 1].sum() == 0


def test_gaussian_samples_have_the_mean_and_deviation() -> None:
    head = head_for(spaces.Box(-np.inf, np.inf, (1,)))
    params = np.tile(np.array([3.0, math.log(0.5)], np.float32), (20_000, 1))
    sampled = head.sample(params, np.random.default_rng(0))
    assert sampled.mean() == pytest.approx(3.0, abs=0.02)
    assert sampled.std() == pytest.approx(0.5, abs=0.02)


def test_masked_actions_have_no_probability_and_no_gradient() -> None:
    head = head_for(spaces.Discrete(4))
    mask = np.array([[True, False, True, False]])
    params = masked(np.array([[0.0, 50.0, 1.0, 2.0]], np.float32), mask)
    many = head.sample(np.tile(params, (2000, 1)), np.random.default_rng(0))
    assert set(many.tolist()) == {0, 2}
    evaluated = array_head(head).evaluate(params, np.array([2]))
    two = [math.exp(0) / (1 + math.e), math.exp(1) / (1 + math.e)]
    assert evaluated.log_prob[0] == pytest.approx(math.log(two[1]), abs=1e-6)
    assert evaluated.entropy[0] == pytest.approx(-sum(p * math.log(p) for p in two), abs=1e-6)
    tensor = torch.from_numpy(params).requires_grad_()
    torch.autograd.backward(head.log_prob(tensor, torch.tensor([2])).sum() + 0.5 * head.entropy(tensor).sum())
    assert tensor.grad is not None
    assert tensor.grad[0, 1] == tensor.grad[0, 3] == 0 != tensor.grad[0, 0]
    assert (params[~mask] == MASKED_LOGIT).all()


def test_a_draw_of_zero_does_not_choose_a_masked_action() -> None:
    class Zero(np.random.Generator):
        def standard_exponential(self, size: Any = None, **kwargs: Any) -> Any:  # type: ignore[override]
            return np.array([[1.0, 0.0]], np.float32)

    head = head_for(spaces.Discrete(2))
    params = masked(np.zeros((1, 2), np.float32), np.array([[True, False]]))
    assert head.sample(params, Zero(np.random.PCG64(0))) == [0]


def test_actions_come_out_in_the_spaces_own_terms() -> None:
    shifted = head_for(spaces.Discrete(3, start=-1))
    np.testing.assert_array_equal(shifted.env_action(np.array([0, 2])), [-1, 1])
    grid = spaces.MultiDiscrete(np.array([[2, 3], [4, 5]]), start=np.array([[1, 0], [0, 0]]))
    action = head_for(grid).env_action(np.array([[1, 2, 3, 4]]))
    assert grid.contains(action[0])
    np.testing.assert_array_equal(action[0], [[2, 2], [3, 4]])
    bits = spaces.MultiBinary([2, 2])
    assert bits.contains(head_for(bits).env_action(np.array([[0, 1, 1, 0]], np.int8))[0])


def test_box_actions_are_clipped_or_squashed_to_the_bounds() -> None:
    box = spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([2.0, 10.0], np.float32))
    action = np.array([[5.0, -3.0], [0.0, 0.0]], np.float32)
    np.testing.assert_allclose(head_for(box).env_action(action), [[2, 0], [0, 0]])
    squashed = head_for(box, squash=True).env_action(action)
    np.testing.assert_allclose(squashed[1], [0, 5], atol=1e-6)  # zero is the middle
    np.testing.assert_allclose(squashed[0], [2 * math.tanh(5), 5 * (1 + math.tanh(-3))], rtol=1e-5)
    assert squashed.dtype == np.float32


def test_squashing_without_bounds_is_refused() -> None:
    with pytest.raises(RlkitError, match="squash=true needs bounded actions"):
        head_for(spaces.Box(-np.inf, np.inf, (1,)), squash=True)


@pytest.mark.parametrize("space", [spaces.Dict({"a": spaces.Discrete(2)}), spaces.Box(0, 9, (1,), np.int64)])
def test_unknown_action_spaces_are_refused_by_name(space: spaces.Space[Any]) -> None:
    with pytest.raises(RlkitError, match="cannot be handled: expected Discrete"):
        head_for(space)


def test_state_dependent_deviation_doubles_the_outputs() -> None:
    box = spaces.Box(-1, 1, (3,))
    free, dependent = head_for(box), head_for(box, state_dependent_std=True)
    assert isinstance(free, Gaussian)
    assert (free.num_outputs, free.num_params, dependent.num_outputs) == (3, 6, 6)


def test_noise_of_exactly_zero_takes_no_forbidden_action() -> None:
    class Zero:
        def standard_exponential(self, shape: tuple[int, ...], dtype: Any) -> Array:
            return np.zeros(shape, dtype)

    rng: Any = Zero()
    logits = np.array([[0.0, 1.0, 5.0]], np.float32)
    sampled = head_for(SPACES["discrete"]).sample(masked(logits, np.array([[True, True, False]])), rng)
    assert sampled[0] == 1
