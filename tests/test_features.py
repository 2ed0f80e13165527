"""Observations to network inputs: one-hot, images, normalisation; and the networks built on them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from rlkit.networks.actor_critic import ActorCritic
from rlkit.networks.features import ObsFeatures, image_shape, is_image
from rlkit.networks.normalization import RewardNormalizer, RunningStatistics
from rlkit.setting import NetworkConfig
from rlkit.spaces import leaves
from rlkit.system.ranks import ALONE

BYTE = np.uint8


def batch_of(space: spaces.Space[Any], rows: int) -> Any:
    """A batch as vector environments make it."""
    from gymnasium.vector.utils import concatenate, create_empty_array

    space.seed(0)
    out: Any = create_empty_array(space, rows)
    return concatenate(space, [space.sample() for _ in range(rows)], out)


def test_discrete_parts_are_one_hot_from_the_spaces_start() -> None:
    features = ObsFeatures(spaces.Discrete(3, start=5))
    np.testing.assert_array_equal(features((np.array([5, 7]),))[0], [[1, 0, 0], [0, 0, 1]])
    pairs = ObsFeatures(spaces.MultiDiscrete([2, 3], start=[1, 0]))
    np.testing.assert_array_equal(pairs((np.array([[2, 1]]),))[0], [[0, 1, 0, 1, 0]])


def test_nested_spaces_become_one_vector_and_images() -> None:
    space = spaces.Dict(
        {
            "camera": spaces.Box(0, 255, (10, 12, 3), BYTE),
            "inner": spaces.Tuple((spaces.Discrete(2), spaces.MultiBinary(3))),
            "speed": spaces.Box(-1, 1, (2, 2)),
        }
    )
    vector, image = ObsFeatures(space)(leaves(space, batch_of(space, 4)))
    assert vector.shape == (4, 2 + 3 + 4)
    assert vector.dtype == np.float32
    assert image.shape == (4, 3, 10, 12)
    assert image.dtype == BYTE


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((84, 84), (1, 84, 84)),
        ((84, 84, 3), (3, 84, 84)),
        ((4, 84, 84), (4, 84, 84)),
        ((4, 84, 84, 3), (12, 84, 84)),
        ((10, 12, 3), (3, 10, 12)),
    ],
)
def test_channels_are_found_wherever_they_are(shape: tuple[int, ...], expected: tuple[int, int, int]) -> None:
    space = spaces.Box(0, 255, shape, BYTE)
    assert image_shape(space) == expected
    obs = np.random.default_rng(0).integers(0, 255, (2, *shape)).astype(BYTE)
    (image,) = ObsFeatures(space)((obs,))
    assert image.shape == (2, *expected)
    if len(shape) == 3 and shape[-1] == 3:
        np.testing.assert_array_equal(image[1, 2], obs[1, :, :, 2])
    if len(shape) == 4:
        np.testing.assert_array_equal(image[1, 3 * 2 + 1], obs[1, 2, :, :, 1])


def test_what_is_an_image() -> None:
    assert is_image(spaces.Box(0, 1, (10, 10, 4), np.bool_))
    assert not is_image(spaces.Box(-1, 1, (3, 3)))
    assert not is_image(spaces.Box(-1, 1, (20, 20)))
    assert not is_image(spaces.Box(0, 255, (4, 5, 3), BYTE))  # smaller than any filter
    assert not is_image(spaces.Box(0, 255, (84, 84, 3), BYTE), "mlp")
    assert is_image(spaces.Box(-1, 1, (20, 20)), "cnn")
    assert not is_image(spaces.Box(-1, 1, (20,)), "cnn")


@pytest.mark.parametrize("shape", [(84, 84, 4), (10, 10, 4), (3, 64, 64), (36, 36)])
def test_networks_for_images_scale_bytes(shape: tuple[int, ...]) -> None:
    space = spaces.Box(0, 255, shape, BYTE)
    network = ActorCritic(space, spaces.Discrete(3), NetworkConfig(), torch.Generator().manual_seed(0))
    (image,) = network.features((np.full((2, *shape), 255, BYTE),))
    params, values = network((torch.from_numpy(image),))
    assert params.shape == (2, 3)
    assert values.shape == (2,)
    trunk = network.cnns[0](torch.ones(2, *image_shape(space)))
    torch.testing.assert_close(network.critic(trunk)[:, 0], values)


def test_initial_weights_are_orthogonal_and_the_first_policy_nearly_uniform() -> None:
    network = ActorCritic(
        spaces.Box(-1, 1, (64,)), spaces.Discrete(4), NetworkConfig(), torch.Generator().manual_seed(0)
    )
    first: Any = network.actor[0].weight
    torch.testing.assert_close(first @ first.T, 2 * torch.eye(64), atol=1e-5, rtol=0)
    assert all(not layer.bias.any() for layer in network.actor if isinstance(layer, torch.nn.Linear))
    params, _ = network((torch.randn(100, 64, generator=torch.Generator().manual_seed(1)),))
    assert network.head.entropy(params).mean().item() == pytest.approx(np.log(4), abs=1e-3)


def test_he_normal_weights_have_a_variance_of_two_by_their_inputs_in_every_layer() -> None:
    config = NetworkConfig(hidden_sizes=[400], initialization="he_normal")
    space = spaces.Box(-1, 1, (200,))
    network: Any = ActorCritic(space, spaces.Discrete(100), config, torch.Generator().manual_seed(0))
    for layer, inputs in ((network.actor[0], 200), (network.actor[2], 400), (network.critic[0], 200)):
        assert layer.weight.var().item() == pytest.approx(2 / inputs, rel=0.05)
        assert (layer.weight.abs() > 2.5 * (2 / inputs) ** 0.5).float().mean().item() == pytest.approx(0.0124, abs=2e-3)
        assert not layer.bias.any()
    image = spaces.Box(0, 255, (84, 84, 4), BYTE)
    cnn: Any = ActorCritic(image, spaces.Discrete(3), config, torch.Generator().manual_seed(0)).cnns[0]
    assert cnn[0].weight.var().item() == pytest.approx(2 / (4 * 8 * 8), rel=0.1)


def test_initial_weights_depend_on_the_generator_alone() -> None:
    def weights(seed: int) -> torch.Tensor:
        torch.rand(3)  # must not matter
        network = ActorCritic(
            spaces.Box(-1, 1, (3,)), spaces.Discrete(2), NetworkConfig(), torch.Generator().manual_seed(seed)
        )
        return torch.cat([p.detach().reshape(-1) for p in network.parameters()])

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))


@pytest.mark.parametrize("state_dependent", [False, True])
def test_gaussian_parameters(state_dependent: bool) -> None:
    config = NetworkConfig(log_std_init=-1.0, state_dependent_std=state_dependent)
    network = ActorCritic(spaces.Box(-1, 1, (3,)), spaces.Box(-1, 1, (2,)), config, torch.Generator().manual_seed(0))
    params = network.policy((torch.zeros(5, 3),))
    torch.testing.assert_close(params[:, 2:], torch.full((5, 2), -1.0))
    torch.autograd.backward(params.sum())
    if not state_dependent:
        assert network.log_std is not None
        torch.testing.assert_close(network.log_std.grad, torch.full((2,), 5.0))


def test_running_statistics_equal_those_of_all_rows_at_once() -> None:
    rows = np.random.default_rng(0).normal(3, 5, size=(100, 4))
    statistics = RunningStatistics(4)
    for part in (rows[:1], rows[1:30], rows[30:30], rows[30:]):
        statistics.update(part, ALONE)
    np.testing.assert_allclose(statistics.mean, rows.mean(0))
    np.testing.assert_allclose(statistics.var, rows.var(0))
    assert statistics.count == 100


def test_normalisation_whitens_boxes_clips_and_leaves_the_rest_alone() -> None:
    space = spaces.Dict({"a": spaces.Box(-np.inf, np.inf, (2,)), "b": spaces.Discrete(2)})
    features = ObsFeatures(space, normalize=True)
    obs = (np.random.default_rng(0).normal(100, 7, size=(500, 2)).astype(np.float32), np.zeros(500, np.int64))
    np.testing.assert_array_equal(features(obs)[0][:, :2], np.full((500, 2), 10.0))  # no statistics yet: clipped
    features.update(obs, ALONE)
    (vector,) = features(obs)
    np.testing.assert_allclose(vector[:, :2].mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(vector[:, :2].std(0), 1, atol=1e-4)
    np.testing.assert_array_equal(vector[:, 2:], np.tile([1, 0], (500, 1)))
    assert set(features.state_dict()) == {"statistics.mean", "statistics.var", "statistics.count"}


def test_rewards_are_divided_by_the_deviation_of_the_discounted_return() -> None:
    normalizer = RewardNormalizer(0.9, 1)
    rewards = np.array([[1.0], [2.0], [4.0]], np.float32)
    done = np.array([[False], [True], [False]])
    scaled = normalizer.normalize(rewards, done, np.ones((3, 1), bool), ALONE)
    returns = np.array([1.0, 0.9 * 1 + 2, 4.0])  # the episode ends after the second step
    np.testing.assert_allclose(scaled[:, 0], rewards[:, 0] / returns.std(), rtol=1e-5)
    # The next rollout goes on with the open episode, and with all returns so far.
    more = normalizer.normalize(rewards[:1], done[:1], np.ones((1, 1), bool), ALONE)
    np.testing.assert_allclose(more[0, 0], 1 / np.append(returns, 0.9 * 4 + 1).std(), rtol=1e-5)


def test_normalised_rewards_are_clipped() -> None:
    normalizer = RewardNormalizer(0.0, 1)
    rewards = np.zeros((1000, 1), np.float32)
    rewards[7] = 1000.0
    all_rows = np.ones((1000, 1), bool)
    assert normalizer.normalize(rewards, all_rows, all_rows, ALONE).max() == 10.0
