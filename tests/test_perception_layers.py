"""Normalisation written out beside torch's, and the special convolutions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from rlkit.errors import RlkitError
from rlkit.perception.models.convolution import dilated_block, same_padding, separable_conv, transposed_block
from rlkit.perception.models.normalization import BatchNorm, group_norm, instance_norm, layer_norm


@pytest.mark.parametrize("shape", [(8, 3), (4, 3, 5, 6)])
def test_batch_norm_agrees_with_torchs(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    theirs: nn.Module = nn.BatchNorm1d(3) if len(shape) == 2 else nn.BatchNorm2d(3)
    ours = BatchNorm(3)
    for module in (ours, theirs):
        nn.init.uniform_(module.get_parameter("weight"), generator=torch.Generator().manual_seed(1))
    for _ in range(3):  # the running statistics follow
        inputs = torch.randn(shape) * 2 + 5
        a, b = inputs.clone().requires_grad_(), inputs.clone().requires_grad_()
        torch.testing.assert_close(ours(a), theirs(b))
        ours(a).pow(3).sum().backward()
        theirs(b).pow(3).sum().backward()
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours.state_dict(), dict(theirs.state_dict()))
    inputs = torch.randn(shape)
    torch.testing.assert_close(ours.eval()(inputs), theirs.eval()(inputs))
    fresh = BatchNorm(3)
    fresh.load_state_dict(theirs.state_dict())
    torch.testing.assert_close(fresh.eval()(inputs), theirs(inputs))


def test_batch_norm_takes_statistics_per_channel_over_images_and_pixels() -> None:
    images = torch.arange(48.0).view(2, 2, 3, 4)
    normal = BatchNorm(2)(images)
    torch.testing.assert_close(normal.mean((0, 2, 3)), torch.zeros(2), atol=1e-6, rtol=0)
    torch.testing.assert_close(normal.var((0, 2, 3), correction=0), torch.ones(2), atol=1e-4, rtol=0)
    wrong = (images - images.mean(0)) / torch.sqrt(images.var(0, correction=0) + 1e-5)  # over images alone
    assert not torch.allclose(normal, wrong, atol=0.1)


def test_batch_norm_of_one_value_is_an_error() -> None:
    with pytest.raises(RlkitError, match="1 value per channel"):
        BatchNorm(3)(torch.zeros(1, 3))
    assert BatchNorm(3).eval()(torch.zeros(1, 3)).shape == (1, 3)


def test_other_normalisations_agree_with_torchs() -> None:
    torch.manual_seed(0)
    images, gamma, beta = torch.randn(2, 6, 4, 5), torch.rand(6), torch.rand(6)
    f = nn.functional
    torch.testing.assert_close(instance_norm(images, gamma, beta), f.instance_norm(images, None, None, gamma, beta))
    for groups in (1, 2, 3, 6):
        torch.testing.assert_close(group_norm(images, groups, gamma, beta), f.group_norm(images, groups, gamma, beta))
    g, b = torch.rand(6, 4, 5), torch.rand(6, 4, 5)
    torch.testing.assert_close(layer_norm(images, g, b), f.layer_norm(images, [6, 4, 5], g, b))
    with pytest.raises(RlkitError, match="6 channels can't be divided into groups=4"):
        group_norm(images, 4, gamma, beta)


def reach(block: nn.Module, size: int = 15) -> Tensor:
    """Which pixels of a size × size image the middle output depends on."""
    image = torch.zeros(1, 1, size, size, requires_grad=True)
    (gradient,) = torch.autograd.grad(block(image)[0, 0, size // 2, size // 2], image)
    return gradient[0, 0] != 0


def test_dilated_convolution_sees_farther_with_the_same_weights() -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(1, 3, 3, dilation=2)
    assert plain(torch.zeros(1, 1, 7, 7)).shape == (1, 3, 3, 3)
    block = dilated_block(1, 1, dilation=2, activation="tanh")
    seen = reach(block)
    rows = seen.any(1).nonzero()
    assert int(seen.sum()) == 9  # weights
    assert int(rows.max() - rows.min()) == 4  # 5 pixels apart
    assert block(torch.zeros(2, 1, 8, 9)).shape == (2, 1, 8, 9)


def test_dilations_with_a_common_factor_leave_pixels_unseen() -> None:
    torch.manual_seed(0)
    gridded = reach(nn.Sequential(*(dilated_block(1, 1, dilation=d, activation="tanh") for d in (2, 2, 2))))
    dense = reach(nn.Sequential(*(dilated_block(1, 1, dilation=d, activation="tanh") for d in (1, 2, 3))))
    assert int(gridded.sum()) == 49  # every other pixel of 13 × 13
    assert int(dense.sum()) == 169


@pytest.mark.parametrize(("kernel", "stride"), [(4, 2), (3, 1), (2, 2), (6, 4)])
def test_transposed_block_multiplies_the_size(kernel: int, stride: int) -> None:
    images = torch.zeros(2, 3, 5, 6)
    assert transposed_block(3, 4, kernel=kernel, stride=stride)(images).shape == (2, 4, 5 * stride, 6 * stride)
    with pytest.raises(RlkitError):
        transposed_block(3, 4, kernel=kernel + 1, stride=stride)


def test_separable_convolution_has_39_weights_instead_of_108() -> None:
    """27 + 12; the sum is printed correctly where 14 is printed for 12."""
    separable = separable_conv(3, 4)
    assert [parameter.numel() for parameter in separable.parameters()] == [27, 12]
    assert nn.Conv2d(3, 4, 3, bias=False).weight.numel() == 108


def test_separable_convolution_is_a_convolution_of_rank_one_across_channels() -> None:
    torch.manual_seed(0)
    separable = separable_conv(3, 4, stride=2)
    depthwise, pointwise = (parameter.detach() for parameter in separable.parameters())
    whole = pointwise * depthwise.transpose(0, 1)  # (4, 3, 1, 1) · (1, 3, 3, 3)
    images = torch.randn(2, 3, 8, 8)
    expected = nn.functional.conv2d(images, whole, stride=2, padding=1)
    torch.testing.assert_close(separable(images), expected)


def test_even_kernels_cannot_keep_the_size() -> None:
    with pytest.raises(RlkitError, match="kernel % 2"):
        same_padding(4)
