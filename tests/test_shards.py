"""Shards of images: results and gradients are those of the whole batch, on any number of cores."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from rlkit.networks import shards
from rlkit.networks.actor_critic import ActorCritic
from rlkit.setting import NetworkConfig
from rlkit.system import threads
from rlkit.system.threads import in_threads, one_core, one_thread, one_thread_unless_asked, shard_threads

IMAGES = 7


@pytest.fixture(autouse=True)
def in_four_shards(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Makes a quarter of these tests' images a shard."""
    monkeypatch.setattr(shards, "SHARD_NUMBERS", IMAGES * 36 * 36 // 4)
    with one_thread():
        yield


def images() -> Tensor:
    return torch.rand(IMAGES, 1, 36, 36, generator=torch.Generator().manual_seed(1))


def network() -> Any:
    space = spaces.Box(0, 1, (36, 36, 1))
    return ActorCritic(space, spaces.Discrete(3), NetworkConfig(), torch.Generator().manual_seed(0))


def gradients(net: nn.Module, loss: Callable[[], Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad(loss(), list(net.parameters())))


def test_outputs_and_gradients_are_those_of_the_whole_batch() -> None:
    net = network().cnns[0]
    pixels = images()
    torch.testing.assert_close(shards.encoded(net, pixels), net(pixels))
    weights = torch.randn(IMAGES, 512, generator=torch.Generator().manual_seed(2))
    found = gradients(net, lambda: (shards.encoded(net, pixels) * weights).sum())
    expected = gradients(net, lambda: (net(pixels) * weights).sum())
    torch.testing.assert_close(found, expected)
    assert all(gradient.abs().max() > 0 for gradient in found)


def test_there_are_as_many_shards_as_the_batch_has_numbers_for() -> None:
    sizes: list[int] = []
    net = network().cnns[0]
    net.register_forward_hook(lambda module, inputs, output: sizes.append(len(inputs[0])))
    shards.encoded(net, images())
    assert sorted(sizes) == [1, 2, 2, 2]
    sizes.clear()
    with torch.no_grad():
        shards.encoded(net, images()[:2])
    assert sizes == [2]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_number_of_threads_changes_no_bit(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    net, pixels = network().cnns[0], images()

    def results() -> list[Tensor]:
        return [shards.encoded(net, pixels), *gradients(net, lambda: shards.encoded(net, pixels).square().sum())]

    monkeypatch.setattr(shards, "shard_threads", lambda: 1)
    alone = results()
    monkeypatch.setattr(shards, "shard_threads", lambda: count)
    assert all(map(torch.equal, alone, results()))


def test_second_derivatives_are_those_of_the_whole_batch() -> None:
    net, pixels = network().cnns[0].double(), images().double()

    def twice(encode: Callable[[], Tensor]) -> list[Tensor]:
        first = torch.autograd.grad(encode().square().sum(), list(net.parameters()), create_graph=True)
        return gradients(net, lambda: sum((part.square().sum() for part in first), torch.zeros(())))

    torch.testing.assert_close(twice(lambda: shards.encoded(net, pixels)), twice(lambda: net(pixels)))


def test_gradients_can_be_asked_for_again() -> None:
    net, pixels = network().cnns[0], images()
    loss = shards.encoded(net, pixels).square().sum()
    first = torch.autograd.grad(loss, list(net.parameters()), retain_graph=True)
    assert all(map(torch.equal, first, torch.autograd.grad(loss, list(net.parameters()))))


def test_parameters_that_stand_still_get_no_gradient() -> None:
    net = network().cnns[0]
    net[0].weight.requires_grad_(False)
    torch.autograd.backward(shards.encoded(net, images()).sum())
    assert net[0].weight.grad is None
    assert net[0].bias.grad.abs().max() > 0
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    assert not shards.encoded(net, images()).requires_grad


def test_an_error_of_the_network_is_raised() -> None:
    with pytest.raises(RuntimeError, match="expected input"):
        shards.encoded(network().cnns[0], torch.zeros(IMAGES, 2, 36, 36))


def test_a_network_in_bfloat16_is_computed_in_bfloat16_by_every_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "shard_threads", lambda: 3)
    net = network().cnns[0]
    with torch.autocast("cpu", torch.bfloat16):
        output = shards.encoded(net, images())
        expected = net(images())
    assert output.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(output, expected)


def test_whole_networks_take_their_images_in_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    whole = network()

    def counted(tasks: Sequence[Callable[[], None]], number: int) -> None:
        calls.append(len(tasks))
        in_threads(tasks, number)

    monkeypatch.setattr(shards, "in_threads", counted)
    whole((torch.as_tensor(np.ones((IMAGES, 1, 36, 36), np.float32)),))
    assert calls == [4]


@pytest.mark.parametrize(
    ("asked", "torchs", "for_shards"),
    [(None, 1, 6), ("", 1, 6), ("3", 2, 3), ("3,2", 2, 3), ("many", 2, 6), ("0", 2, 1)],
)
def test_torch_computes_with_one_thread_unless_more_are_asked_for(
    asked: str | None, torchs: int, for_shards: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if asked is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
    monkeypatch.setattr(threads, "num_cores", lambda: 6)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with one_thread_unless_asked():
            assert torch.get_num_threads() == torchs
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert shard_threads() == for_shards
    with one_core():
        assert shard_threads() == 1
    assert shard_threads() == for_shards
