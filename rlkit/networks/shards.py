"""Large batches of images encoded in shards, side by side on all cores, forward and backward."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from rlkit.system.threads import in_threads, shard_threads

SHARD_NUMBERS = 64 * 4 * 84 * 84
"""Least numbers of an image batch that make a shard, those of 64 Atari frames: smaller ones take longer per image."""


def encoded(net: nn.Module, images: Tensor) -> Tensor:
    """Computes net(images), for a network that looks at each image by itself; gradients flow to its parameters.

    The number of shards depends on the batch alone, and their gradients are added up in their order, so that results do
    not depend on the number of cores, nor on how busy they are. A batch that is too small for two shards, one on a GPU,
    and one that torch has several threads for, are computed at once.
    """
    count = images.numel() // SHARD_NUMBERS
    if count < 2 or images.is_cuda or torch.get_num_threads() > 1 or torch.compiler.is_compiling():
        output: Tensor = net(images)
        return output
    parameters = [parameter for parameter in net.parameters() if parameter.requires_grad]
    differentiable = torch.is_grad_enabled() and bool(parameters)
    output = _InShards.apply(net, images, min(count, len(images)), differentiable, *parameters)  # type: ignore[no-untyped-call]
    return output


class _InShards(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, net: nn.Module, images: Tensor, count: int, differentiable: bool, *parameters: Tensor
    ) -> Tensor:
        shards, outputs = images.tensor_split(count), [images] * count
        # Whether precisions are mixed and gradients are wanted, torch knows of each thread by itself.
        amp = partial(torch.autocast, "cpu", torch.bfloat16, enabled=torch.is_autocast_enabled("cpu"))

        def compute(i: int) -> None:
            with torch.set_grad_enabled(differentiable), amp():
                outputs[i] = net(shards[i])

        in_threads([partial(compute, i) for i in range(count)], shard_threads())
        ctx.net, ctx.images, ctx.outputs, ctx.parameters, ctx.amp = net, images, outputs, parameters, amp
        return torch.cat([output.detach() for output in outputs])

    @staticmethod
    def backward(ctx: Any, *d_outputs: Tensor) -> Any:
        (d_output,) = d_outputs
        if torch.is_grad_enabled():  # a gradient of the gradient is wanted, which the shards' graphs do not give
            with ctx.amp():
                output = ctx.net(ctx.images)
            gradients = torch.autograd.grad(output, ctx.parameters, d_output, create_graph=True)
            return None, None, None, None, *gradients
        d_shards = d_output.tensor_split(len(ctx.outputs))
        found: list[tuple[Tensor, ...]] = [()] * len(d_shards)

        def compute(i: int) -> None:
            # The graph is kept, because whoever asks for gradients may ask again.
            found[i] = torch.autograd.grad(ctx.outputs[i], ctx.parameters, d_shards[i], retain_graph=True)

        in_threads([partial(compute, i) for i in range(len(d_shards))], shard_threads())
        totals = list(found[0])
        for shard in found[1:]:
            for total, part in zip(totals, shard, strict=True):
                total += part
        return None, None, None, None, *totals
