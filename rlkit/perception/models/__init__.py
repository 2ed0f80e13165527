"""Networks by name; the constructor of each takes a few keyword values, which a configuration file can hold."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from torch import nn

from rlkit.errors import RlkitError, check_range, unknown
from rlkit.perception.models.alexnet import AlexNet
from rlkit.perception.models.attention import SelfAttentionGAN
from rlkit.perception.models.autoencoder import AdversarialAutoencoder, Autoencoder
from rlkit.perception.models.cyclegan import CycleGAN
from rlkit.perception.models.dcgan import DCGAN, InfoGAN
from rlkit.perception.models.densenet import DenseNet
from rlkit.perception.models.gan import GAN
from rlkit.perception.models.googlenet import GoogLeNet
from rlkit.perception.models.language import RNNLanguageModel
from rlkit.perception.models.lenet import LeNet
from rlkit.perception.models.mlp import MLP
from rlkit.perception.models.nin import NiN
from rlkit.perception.models.numpy_mlp import NumpyMLP
from rlkit.perception.models.resnet import ResNet
from rlkit.perception.models.simple import Kernel, Point, Polynomial
from rlkit.perception.models.text import TextClassifier
from rlkit.perception.models.vae import VAE
from rlkit.perception.models.vgg import VGG

MODELS: dict[str, type[nn.Module]] = {
    "mlp": MLP,
    "lenet": LeNet,
    "alexnet": AlexNet,
    "vgg": VGG,
    "nin": NiN,
    "googlenet": GoogLeNet,
    "resnet": ResNet,
    "densenet": DenseNet,
    "text_classifier": TextClassifier,
    "rnn_language_model": RNNLanguageModel,
    "numpy_mlp": NumpyMLP,
    "polynomial": Polynomial,
    "kernel": Kernel,
    "point": Point,
    "autoencoder": Autoencoder,
    "adversarial_autoencoder": AdversarialAutoencoder,
    "vae": VAE,
    "gan": GAN,
    "dcgan": DCGAN,
    "infogan": InfoGAN,
    "self_attention_gan": SelfAttentionGAN,
    "cyclegan": CycleGAN,
}
"""All choices of `model=` by name. A model that has `encode`, (batch, …) -> (batch, feature_size), and `feature_size`,
as classifiers and autoencoders do, can be a backbone."""


MAY_BE_ZERO = ("degree", "noise_size", "num_continuous")
"""Whole-number fields for which 0 is allowed; all others must be positive."""


def make_model(name: str, **fields: Any) -> nn.Module:
    """Builds the network called `name`; `fields` are its constructor's arguments.

    Raises RlkitError for unknown names and fields, and for values from which no network can be built.
    """
    if name not in MODELS:
        raise unknown("model", name, MODELS)
    known = inspect.signature(MODELS[name]).parameters
    for field in fields:
        if field not in known:
            raise unknown(f"field of model {name}", field, known)
    missing = [field for field, p in known.items() if p.default is inspect.Parameter.empty and field not in fields]
    if missing:
        raise RlkitError(f"model {name} needs a value for {', '.join(missing)}")
    for field, value in fields.items():
        _check(field, value, known[field].default)
    try:
        return MODELS[name](**fields)
    except (ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError, ValueError) as error:
        # Torch's, for impossible sizes.
        reason = " ".join(f"{error}".split())
        raise RlkitError(f"model {name} cannot be built with {f'{fields}'[:300]}: {reason[:300]}") from error


def _check(field: str, value: Any, default: Any) -> None:
    """Raises RlkitError for dropout outside [0, 1], and for whole numbers, alone or in a list, that are too small."""
    values = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    if field == "dropout":
        for share in values:
            check_range(f"model.{field}", share, 0, 1)
    defaults = list(default) if isinstance(default, tuple) else [default]
    if all(type(item) is int for item in defaults):
        for size in values:
            if not isinstance(size, int):
                raise RlkitError(f"model.{field}={value}: expected whole numbers")
            most = 64 if field == "channel_divisor" else float("inf")  # the narrowest layers have 64 channels to divide
            check_range(f"model.{field}", size, 0 if field in MAY_BE_ZERO else 1, most)
