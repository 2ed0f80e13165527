"""Observations to network inputs: one-hot, images, normalisation; and the networks built on them."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from rlkit.agents.ppo import PPOConfig
from rlkit.networks.actor_critic import ActorCritic
from rlkit.networks.features import LARGEST_BOUND, NEAR, ObsFeatures, image_shape, is_image
from rlkit.networks.normalization import RewardNormalizer, RunningStatistics
from rlkit.networks.q_network import QNetwork
from rlkit.registry import make_agent
from rlkit.setting import NetworkConfig, Setting
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
    assert not is_image(spaces.Box(0, 255, (4, 5, 3), BYTE))
    assert is_image(spaces.Box(0, 255, (7, 7, 3), BYTE))  # MiniGrid's
    assert not is_image(spaces.Box(0, 255, (7, 7, 3), BYTE), "auto_v1")
    assert is_image(spaces.Box(0, 255, (8, 8, 3), BYTE), "auto_v1")
    assert not is_image(spaces.Box(0, 255, (84, 84, 3), BYTE), "mlp")
    assert is_image(spaces.Box(-1, 1, (20, 20)), "cnn")
    assert is_image(spaces.Box(-1, 1, (20, 20)), "minatar")
    assert not is_image(spaces.Box(-1, 1, (20,)), "cnn")


def layers(shape: tuple[int, ...], encoder: str) -> list[tuple[int, ...]]:
    """The shapes of the weights of an image's CNN."""
    network = ActorCritic(
        spaces.Box(0, 255, shape, BYTE),
        spaces.Discrete(3),
        NetworkConfig(encoder=encoder),
        torch.Generator().manual_seed(0),
    )
    return [tuple(weight.shape) for weight in network.cnns[0].parameters() if weight.ndim > 1]


MNIH = [(32, 4, 8, 8), (64, 32, 4, 4), (64, 64, 3, 3)]


@pytest.mark.parametrize(
    ("shape", "encoder", "expected"),
    [
        ((10, 10, 4), "auto", [(16, 4, 3, 3), (128, 16 * 8 * 8)]),  # as published
        ((10, 10, 4), "minatar", [(16, 4, 3, 3), (128, 16 * 8 * 8)]),
        ((7, 7, 3), "auto", [(16, 3, 3, 3), (128, 16 * 5 * 5)]),
        ((12, 12, 3), "cnn", [(16, 3, 3, 3), (128, 16 * 10 * 10)]),
        ((20, 10, 3), "auto", [(16, 3, 3, 3), (32, 16, 3, 3), (128, 32 * 9 * 8)]),
        ((35, 35, 1), "auto", [(16, 1, 3, 3), (32, 16, 3, 3), (32, 32, 3, 3), (128, 32 * 9 * 9)]),
        ((2, 5), "cnn", [(16, 1, 3, 3), (128, 16 * 2 * 5)]),
        ((36, 36, 4), "auto", [*MNIH, (512, 64)]),
        ((84, 84, 4), "cnn", [*MNIH, (512, 64 * 7 * 7)]),
        ((84, 84, 4), "minatar", [(16, 4, 3, 3), *[(32, n, 3, 3) for n in (16, 32, 32, 32)], (128, 32 * 6 * 6)]),
        ((10, 10, 4), "auto_v1", [(32, 4, 3, 3), (64, 32, 3, 3), (512, 64 * 5 * 5)]),
        ((10, 10, 4), "cnn_v1", [(32, 4, 3, 3), (64, 32, 3, 3), (512, 64 * 5 * 5)]),
        ((84, 84, 4), "auto_v1", [*MNIH, (512, 64 * 7 * 7)]),
    ],
)
def test_the_network_of_images_fits_their_size(
    shape: tuple[int, ...], encoder: str, expected: list[tuple[int, ...]]
) -> None:
    assert layers(shape, encoder) == expected


def test_minatars_network_computes_what_was_published() -> None:
    space = spaces.Box(0, 1, (10, 10, 4), BYTE)
    network: Any = QNetwork(space, 6, NetworkConfig(), torch.Generator().manual_seed(0))
    images = np.random.default_rng(0).integers(2, size=(3, 10, 10, 4)).astype(BYTE)
    features = network.features((images,))
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    (convolution, dense), outputs = [network.cnns[0][i] for i in (0, 3)], network.body[0]
    hidden = F.relu(F.conv2d(pixels, convolution.weight, convolution.bias)).flatten(1)
    expected = outputs(F.relu(F.linear(hidden, dense.weight, dense.bias)))
    torch.testing.assert_close(network(tuple(map(torch.as_tensor, features))), expected)


@pytest.mark.parametrize("shape", [(84, 84, 4), (10, 10, 4), (7, 7, 3), (2, 9, 33), (3, 64, 64), (36, 36)])
def test_networks_for_images_scale_bytes(shape: tuple[int, ...]) -> None:
    space = spaces.Box(0, 255, shape, BYTE)
    network = ActorCritic(space, spaces.Discrete(3), NetworkConfig(), torch.Generator().manual_seed(0))
    (image,) = network.features((np.full((2, *shape), 255, BYTE),))
    params, values = network((torch.from_numpy(image),))
    assert params.shape == (2, 3)
    assert values.shape == (2,)
    trunk = network.cnns[0](torch.ones(2, *image_shape(space)))
    torch.testing.assert_close(network.critic(trunk)[:, 0], values)


# Bounds that are far


@pytest.mark.parametrize(
    ("low", "high", "dtype", "numbers", "expected"),
    [
        (0, 255, np.uint8, [0, 51, 255], [0, 0.2, 1]),
        (0, 255, np.float32, [0, 51, 255], [0, 0.2, 1]),
        (0, 65_535, np.uint16, [0, 13_107, 65_535], [0, 0.2, 1]),
        (-32_768, 32_767, np.int16, [-32_768, 0, 8192], [-1, 0, 0.25]),
        (0, 500, np.int64, [0, 125, 500], [0, 0.25, 1]),
        (-100, 100, np.float32, [-100, 0, 50], [-1, 0, 0.5]),
        (-1, 1000, np.float64, [-1, 0, 1000], [-0.001, 0, 1]),
        (1000, 1010, np.float32, [1000, 1005, 1010], [0, 0.5, 1]),
        (-1010, -1000, np.float32, [-1010, -1005, -1000], [-1, -0.5, 0]),
        (40, 40, np.float32, [40, 40, 40], [0, 0, 0]),
    ],
)
def test_far_bounds_scale_what_is_between_them(low: Any, high: Any, dtype: Any, numbers: Any, expected: Any) -> None:
    obs = (np.array(numbers, dtype)[:, None],)
    (vector,) = ObsFeatures(spaces.Box(low, high, (1,), dtype))(obs)
    assert vector.dtype == np.float32
    np.testing.assert_allclose(vector[:, 0], expected, rtol=1e-6)
    (plain,) = ObsFeatures(spaces.Box(low, high, (1,), dtype), scale=False)(obs)
    np.testing.assert_array_equal(plain[:, 0], numbers)


@pytest.mark.parametrize(
    ("low", "high"),
    [(-np.inf, np.inf), (0, np.inf), (-np.inf, 100), (-28.3, 28.3), (0, 30), (-1e10, 1e10), (-3.4e38, 3.4e38)],
)
def test_near_bounds_and_none_leave_numbers_as_they_are(low: float, high: float) -> None:
    obs = np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32) * 20
    (vector,) = ObsFeatures(spaces.Box(low, high, (2,), np.float32))((obs,))
    np.testing.assert_array_equal(vector, obs)


@pytest.mark.parametrize(
    "env", ["CartPole-v1", "Acrobot-v1", "Pendulum-v1", "MountainCar-v0", "MountainCarContinuous-v0"]
)
def test_classic_control_is_learned_from_bit_for_bit(env: str) -> None:
    space = gym.make(env).observation_space
    obs = (np.random.default_rng(0).normal(size=(5, *(space.shape or ()))).astype(np.float32) * 9,)
    assert ObsFeatures(space)(obs)[0] is obs[0]


def test_each_number_of_a_box_has_bounds_of_its_own() -> None:
    low, high = np.array([-4.8, 0, -np.inf, 10], np.float32), np.array([4.8, 1000, np.inf, 100], np.float32)
    (vector,) = ObsFeatures(spaces.Box(low, high))((np.array([[4, 250, 77, 55]], np.float32),))
    np.testing.assert_allclose(vector, [[4, 0.25, 77, 0.5]])


def test_scaled_parts_lie_beside_others() -> None:
    space = spaces.Dict({"ram": spaces.Box(0, 255, (2,), BYTE), "way": spaces.Discrete(2), "far": spaces.Box(0, 50)})
    obs = leaves(space, {"ram": np.array([[255, 0]], BYTE), "way": np.array([1]), "far": np.array([[25]], np.float32)})
    (vector,) = ObsFeatures(space)(obs)
    np.testing.assert_array_equal(vector, [[0.5, 1, 0, 0, 1]])  # Dict sorts its keys


@given(st.floats(-2e6, 2e6, width=32), st.floats(0, 2e6, width=32), st.integers(0, 8))
def test_all_that_lies_between_far_bounds_becomes_at_most_one(low: float, width: float, eighths: int) -> None:
    bounds = np.array([low, low + width], np.float32)
    number = np.clip(bounds[:1] + (bounds[1] - bounds[0]) * np.float32(eighths / 8), *bounds).astype(np.float32)
    (vector,) = ObsFeatures(spaces.Box(bounds[:1], bounds[1:]))((number[None],))
    if NEAR < np.abs(bounds).max() <= LARGEST_BOUND:
        assert abs(vector[0, 0]) <= 1 + 1e-6  # of rounding
        assert (vector[0, 0] < 0) <= (bounds[0] < 0)
    else:
        assert vector[0, 0] == number[0]


def test_normalisation_takes_the_place_of_scaling() -> None:
    obs = (np.random.default_rng(0).integers(0, 256, (500, 3)).astype(BYTE),)
    features = ObsFeatures(spaces.Box(0, 255, (3,), BYTE), normalize=True)
    features.update(obs, ALONE)
    np.testing.assert_allclose(features.statistics.mean, obs[0].mean(0))  # type: ignore[union-attr]
    np.testing.assert_allclose(features(obs)[0].std(0), 1, atol=1e-4)


@pytest.mark.parametrize(("dtype", "high"), [(BYTE, 255), (np.float32, 255), (np.int32, 1000), (BYTE, 1), (BYTE, 200)])
def test_pixels_reach_a_cnn_scaled_by_their_bounds(dtype: Any, high: int) -> None:
    space = spaces.Box(0, high, (10, 10, 3), dtype)
    network = ActorCritic(space, spaces.Discrete(3), NetworkConfig(), torch.Generator().manual_seed(0))
    features = network.features((np.full((2, 10, 10, 3), high, dtype),))
    ones = network.cnns[0](torch.ones(2, 3, 10, 10))
    torch.testing.assert_close(network.cnns(tuple(map(torch.as_tensor, features))), ones)


@pytest.mark.parametrize("compute", ["torch", "native", "auto"])
def test_bytes_are_learned_from_as_numbers_from_0_to_1(compute: str) -> None:
    def values(space: spaces.Box, obs: Any) -> Any:
        setting = Setting(space, spaces.Discrete(2), NetworkConfig(encoder="mlp"), compute=compute)
        agent: Any = make_agent(PPOConfig(), setting)
        return agent.value(obs)

    obs = np.random.default_rng(0).integers(0, 256, (5, 12, 12)).astype(BYTE)
    scaled = values(spaces.Box(0, 1, (12, 12)), obs / np.float32(255))
    np.testing.assert_allclose(values(spaces.Box(0, 255, (12, 12), BYTE), obs), scaled, rtol=1e-5)


# Observations of several kinds

CAMERA = spaces.Box(0, 255, (8, 8, 3), BYTE)
MIXED = {
    "an image and a vector": spaces.Dict({"camera": CAMERA, "speed": spaces.Box(-1, 1, (2,))}),
    "an image and a choice": spaces.Tuple((CAMERA, spaces.Discrete(3))),
    "two images": spaces.Dict({"left": CAMERA, "right": CAMERA}),
    "an image deep inside, and flags": spaces.Dict({"in": spaces.Tuple((CAMERA,)), "flags": spaces.MultiBinary(2)}),
}
ALONE_SPACES = {"an image": CAMERA, "a dict of one image": spaces.Dict({"camera": CAMERA})}


def networks(space: spaces.Space[Any], **config: Any) -> list[Any]:
    seeded = torch.Generator().manual_seed(0)
    network = NetworkConfig(**config)
    actor_critic: Any = ActorCritic(space, spaces.Discrete(3), network, seeded)
    return [actor_critic.actor, actor_critic.critic, QNetwork(space, 3, network, seeded).body]


def linear_layers(body: Any) -> int:
    return sum(isinstance(layer, torch.nn.Linear) for layer in body)


@pytest.mark.parametrize("name", MIXED)
def test_hidden_layers_put_parts_of_several_kinds_together(name: str) -> None:
    assert all(linear_layers(body) == 3 for body in networks(MIXED[name]))
    assert all(linear_layers(body) == 1 for body in networks(MIXED[name], hidden_sizes=[]))


@pytest.mark.parametrize("name", ALONE_SPACES)
def test_one_image_alone_has_a_cnn_that_ends_in_a_hidden_layer(name: str) -> None:
    assert all(linear_layers(body) == 1 for body in networks(ALONE_SPACES[name]))


@pytest.mark.parametrize("name", MIXED)
def test_what_one_part_means_can_depend_on_another(name: str) -> None:
    """Outputs that are a sum of functions of one part each would have equal differences."""
    space = MIXED[name]
    q: Any = QNetwork(space, 3, NetworkConfig(), torch.Generator().manual_seed(0))
    batch = leaves(space, batch_of(space, 9))
    first, second = (tuple(part[i : i + 1] for part in batch) for i in (0, 1))
    found = {}
    for i, one in enumerate((first, second)):
        for j, other in enumerate((first, second)):
            features = q.features((one[0], *other[1:]))
            found[i, j] = q(tuple(map(torch.as_tensor, features)))
    difference = (found[0, 0] - found[1, 0]) - (found[0, 1] - found[1, 1])
    assert difference.abs().max() > 1e-3


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
