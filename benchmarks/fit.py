"""The speed of `fit` on LeNet and images of MNIST's size, beside a training loop written by hand.

    python benchmarks/fit.py [--repetitions 7] [--samples 12800]

All loops train an epoch in turn, in one process with one thread, with equal networks, optimisers, batches and
preparation of the images. CPU time is measured. The loop by hand has no metrics and no check of the loss. It is
measured twice: with the channels of images and filters last in memory, as `fit` has them, and in torch's default
layout. DataLoader is the second of these with torch's own loader. The images are random, which makes no difference to
the time. Writes results/fit.json.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from rlkit.perception.config import FitConfig
from rlkit.perception.data import Data, TensorSamples
from rlkit.perception.inputs import Inputs
from rlkit.perception.loop import Training
from rlkit.perception.models import make_model
from rlkit.perception.tasks import Classification

HERE = Path(__file__).resolve().parent
BATCH = 128
MEAN, STD = 0.1307, 0.3081


def main() -> None:
    """Measures all loops, and prints and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=7, help="epochs of each (default 7)")
    parser.add_argument("--samples", type=int, default=12_800, help="images of an epoch (default 12,800)")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder to write to")
    given = parser.parse_args()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (given.samples, 1, 28, 28), generator=generator, dtype=torch.uint8)
    labels = torch.randint(10, (given.samples,), generator=generator)
    loops = {
        "fit": by_fit(images, labels),
        "by hand, channels last": by_hand(images, labels, torch.channels_last),
        "by hand": by_hand(images, labels, torch.contiguous_format),
        "DataLoader": by_loader(images, labels),
    }
    for epoch in loops.values():
        epoch()  # the first epoch warms up, and is not measured
    times: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(given.repetitions):
        for name, epoch in loops.items():
            start = time.process_time()
            epoch()
            times[name].append(time.process_time() - start)
    ratios = {name: np.array(times[name]) / np.array(times["fit"]) for name in loops if name != "fit"}
    result = {
        "samples_per_cpu_second": {
            name: round(given.samples / float(np.median(spent))) for name, spent in times.items()
        },
        "fit_beside": {
            name: {
                "median": round(float(np.median(ratio)), 3),
                "lowest": round(float(ratio.min()), 3),
                "highest": round(float(ratio.max()), 3),
            }
            for name, ratio in ratios.items()
        },
        "repetitions": given.repetitions,
        "torch": torch.__version__,
    }
    print(json.dumps(result, indent=2))
    given.results.mkdir(parents=True, exist_ok=True)
    (given.results / "fit.json").write_text(json.dumps(result, indent=2) + "\n")


def network() -> nn.Module:
    """Makes the network that all loops train, with equal initial weights."""
    torch.manual_seed(0)
    return make_model("lenet")


def prepared(images: Tensor) -> Tensor:
    """Returns bytes as standardised floats."""
    return (images.float() / 255 - MEAN) / STD


def by_hand(images: Tensor, labels: Tensor, memory_format: torch.memory_format) -> Callable[[], None]:
    """Returns a function that trains an epoch in a loop by hand, as short as such a loop can be."""
    model, loss_of = network().to(memory_format=memory_format), nn.CrossEntropyLoss()  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)

    def epoch() -> None:
        for indices in torch.split(torch.randperm(len(images)), BATCH):
            optimizer.zero_grad()
            batch = prepared(images[indices]).contiguous(memory_format=memory_format)
            loss = loss_of(model(batch), labels[indices])
            loss.backward()
            optimizer.step()

    return epoch


def by_loader(images: Tensor, labels: Tensor) -> Callable[[], None]:
    """Returns a function that trains an epoch with torch's DataLoader, which loads in this process."""
    model, loss_of = network(), nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    loader = DataLoader(TensorDataset(images, labels), BATCH, shuffle=True)

    def epoch() -> None:
        for some, targets in loader:
            optimizer.zero_grad()
            loss = loss_of(model(prepared(some)), targets)
            loss.backward()
            optimizer.step()

    return epoch


def by_fit(images: Tensor, labels: Tensor) -> Callable[[], None]:
    """Returns a function that trains an epoch like `fit`, with metrics of every step and a check for NaN."""
    samples = TensorSamples(images, labels)
    data = Data(samples, None, samples, input_shape=(1, 28, 28), num_outputs=10)
    config = FitConfig(epochs=1_000_000, batch_size=BATCH, checkpoint_interval=0)
    training = Training(Classification(network()), data, config, Inputs([MEAN], [STD]), seed=0, device="cpu")

    def epoch() -> None:
        for batch in training.batches():
            training.step(batch)
        training.epoch += 1
        training.log()

    return epoch


if __name__ == "__main__":
    main()
