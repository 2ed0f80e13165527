"""Tasks of generative models: losses, results and pictures of autoencoders and of adversarial networks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from rlkit.errors import RlkitError, check_choice, check_range
from rlkit.perception.data.samples import Batch, Data
from rlkit.perception.generative_metrics import frechet_distance, inception_score, mode_coverage
from rlkit.perception.inputs import Inputs
from rlkit.perception.models import objectives
from rlkit.perception.models.autoencoder import AdversarialAutoencoder
from rlkit.perception.models.cyclegan import CycleGAN
from rlkit.perception.models.dcgan import InfoGAN
from rlkit.perception.models.gan import Adversaries
from rlkit.perception.models.vae import VAE
from rlkit.perception.plots import draw_points, draw_tiles
from rlkit.perception.task import Better, Loss, Picture, Task

MOST_SAMPLES = 5_000
"""Largest number of samples in a comparison of two sets."""
ROWS = 5
"""Rows of originals in a picture, which are followed by as many rows of their reconstructions."""
COLUMNS = 10
"""Columns of the grids in pictures."""
DRAWN_SAMPLES = 100
"""Generated images in a picture of an autoencoder's."""
DRAWN_POINTS = 2_000
"""Largest number of points in a picture."""


class Judge:
    """A trained classifier whose features are used to compare samples; it does not belong to the task's state."""

    def __init__(self, path: str | None) -> None:
        from rlkit.perception.checkpoint import load_model  # here, because that module imports the tasks

        self.model, self.inputs, self.path = None, None, path
        self.classes: tuple[str, ...] = ()
        if path is not None:
            self.model, self.inputs, description = load_model(path)
            self.classes = description.classes
            if not hasattr(self.model, "encode") or not hasattr(self.model, "head"):
                raise RlkitError(f"task.features_from={path} holds {type(self.model).__name__}, which is no classifier")

    def check(self, data: Data, *, conditional: bool = False) -> None:
        """Raises RlkitError for data on which the classifier can't judge.

        These are fewer than two samples, and for `conditional` generators, whose labels are compared with the
        classifier's, other classes.
        """
        if self.model is None or not len(data.test):
            return
        if min(len(data.test), len(data.train)) < 2:
            raise RlkitError(f"task.features_from={self.path} compares sets of samples: expected 2 or more in the test")
        if conditional and data.classes and self.classes != data.classes:
            raise RlkitError(
                f"task.features_from={self.path} tells the classes {', '.join(self.classes)}: expected those of the "
                f"data, {', '.join(data.classes)}, in this order"
            )

    @torch.no_grad()
    def features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Returns features, (n, features), and class probabilities, (n, classes), of images from 0 to 1."""
        assert self.model is not None
        assert self.inputs is not None
        self.model.to(images.device)
        self.inputs.to(images.device)
        features, probabilities = [], []
        for some in torch.split(images, 500):
            encoded: Tensor = self.model.encode(self.inputs(some))  # type: ignore[operator]
            features.append(encoded)
            probabilities.append(self.model.head(encoded).softmax(1))  # type: ignore[operator]
        return torch.cat(features), torch.cat(probabilities)

    def compare(self, real: Tensor, fake: Tensor, training: Tensor) -> dict[str, float]:
        """Returns the Fréchet distance of `fake` to `real` images, and the inception score; {} without a classifier.

        All images are from 0 to 1. `real_frechet_distance` is the distance of as many training images, which a perfect
        generator would have.
        """
        if self.model is None:
            return {}
        real_features, _ = self.features(real)
        fake_features, probabilities = self.features(fake)
        return {
            "frechet_distance": frechet_distance(real_features, fake_features),
            "real_frechet_distance": frechet_distance(real_features, self.features(training)[0]),
            "inception_score": inception_score(probabilities),
        }


# Autoencoders


class Autoencoding(Task):
    """Reconstruct images from few latent numbers. Pixels must be in [0, 1]: `scale=unit`.

    `loss` is `bce`, the cross-entropy of the pixels, or `mse`. `noise` makes it a denoising autoencoder: it is the
    standard deviation of the noise that is added to the input but not to the target. `contraction` makes it a
    contractive one: it weighs the squared derivatives of the latent numbers by the pixels.
    """

    better: Mapping[str, Better] = {"loss": "smaller", "mse": "smaller"}

    def __init__(self, model: nn.Module, *, loss: str = "bce", noise: float = 0.0, contraction: float = 0.0) -> None:
        super().__init__(model)
        check_choice("task.loss", loss, ["bce", "mse"])
        check_range("task.noise", noise, 0)
        check_range("task.contraction", contraction, 0)
        if not hasattr(model, "decoder"):
            raise RlkitError(f"task=autoencoding needs an autoencoder, and {type(model).__name__} is none")
        self.loss, self.noise, self.contraction = loss, noise, contraction

    def measure(self, batch: Batch) -> dict[str, Tensor]:
        """Returns the loss, summed over pixels, and the mean squared error per pixel."""
        images = in_unit_range(batch.inputs)
        logits: Tensor = self.model(self.add_noise(images))
        loss = objectives.reconstruction_loss(logits, images, self.loss)
        if self.contraction and torch.is_grad_enabled():
            encode: Any = self.model.encode
            loss = loss + self.contraction * objectives.contractive_penalty(encode, images)
        return {"loss": loss, "mse": functional.mse_loss(logits.sigmoid(), images)}

    def add_noise(self, images: Tensor) -> Tensor:
        """Returns the images with the task's noise, as the encoder gets them."""
        return images + self.noise * torch.randn_like(images) if self.noise else images

    @torch.no_grad()
    def finish(self, data: Data, inputs: Inputs) -> dict[str, float]:
        """Returns the errors of two simple methods.

        `pca_mse` is the mean squared error of PCA with as many components as there are latent numbers. `noise_mse` is
        that of the noisy images themselves, without any denoising.
        """
        images = some_inputs(data, inputs, MOST_SAMPLES)
        latent_size: Any = self.model.feature_size
        training = some_inputs(data, inputs, MOST_SAMPLES, part="train")
        results = {"pca_mse": pca_error(training.flatten(1), images.flatten(1), int(latent_size))}
        if self.noise:
            results["noise_mse"] = float(functional.mse_loss(self.add_noise(images), images))
        return results

    def pictures(self, data: Data, inputs: Inputs) -> dict[str, Picture]:
        """Returns the picture of originals, of what noise makes of them, and of their reconstructions."""
        return {"reconstructions.png": partial(self._draw_reconstructions, data, inputs)}

    def _draw_reconstructions(self, data: Data, inputs: Inputs, path: Path) -> None:
        images = some_inputs(data, inputs, ROWS * COLUMNS)
        noisy = self.add_noise(images)
        rows = [images, *([noisy] if self.noise else []), self.model(noisy).sigmoid()]
        draw_tiles(path, torch.cat(rows), COLUMNS)


class Variational(Task):
    """Maximise the evidence lower bound, in nats per image. Pixels must be in [0, 1]: `scale=unit`.

    `beta` weighs the KL term. `features_from` is the run folder of a classifier of such images, in whose features the
    Fréchet distance of generated images is measured at the end.
    """

    better: Mapping[str, Better] = {"loss": "smaller", "elbo": "larger", "mse": "smaller"}

    def __init__(self, model: nn.Module, *, beta: float = 1.0, features_from: str | None = None) -> None:
        super().__init__(model)
        check_range("task.beta", beta, 0)
        _expect(model, VAE, "variational")
        self.beta, self.judge = beta, Judge(features_from)

    @property
    def vae(self) -> VAE:
        """The model, typed as a VAE."""
        return cast(VAE, self.model)

    def check(self, data: Data) -> None:
        """Raises RlkitError for data on which generated images can't be judged."""
        self.judge.check(data)

    def measure(self, batch: Batch) -> dict[str, Tensor]:
        """Returns the loss, the bound `elbo`, its term `kl`, and the mean squared error per pixel.

        The latent numbers of each image are drawn once.
        """
        images = in_unit_range(batch.inputs)
        logits, mean, log_variance = self.vae(images)
        return {
            "loss": -objectives.elbo(logits, images, mean, log_variance, self.beta),
            "elbo": objectives.elbo(logits, images, mean, log_variance),
            "kl": objectives.gaussian_kl(mean, log_variance).mean(),
            "mse": functional.mse_loss(logits.sigmoid(), images),
        }

    @torch.no_grad()
    def finish(self, data: Data, inputs: Inputs) -> dict[str, float]:
        """Returns the comparison of generated images with real ones by a classifier's features."""
        images = some_inputs(data, inputs, MOST_SAMPLES)
        samples = decoded(self.vae.decoder, len(images), self.vae.feature_size, images.device)
        return self.judge.compare(images, samples, some_inputs(data, inputs, MOST_SAMPLES, part="train"))

    def pictures(self, data: Data, inputs: Inputs) -> dict[str, Picture]:
        """Returns the pictures of reconstructions and of generated images."""

        def draw_samples(path: Path) -> None:
            device = some_inputs(data, inputs, 1).device
            draw_tiles(path, decoded(self.vae.decoder, DRAWN_SAMPLES, self.vae.feature_size, device), COLUMNS)

        return {
            "reconstructions.png": partial(self._draw_reconstructions, data, inputs),
            "samples.png": draw_samples,
        }

    def _draw_reconstructions(self, data: Data, inputs: Inputs, path: Path) -> None:
        images = some_inputs(data, inputs, ROWS * COLUMNS)
        draw_tiles(path, torch.cat([images, self.vae(images)[0].sigmoid()]), COLUMNS)


class AdversarialAutoencoding(Autoencoding):
    """Train an autoencoder until a discriminator can't tell its latent numbers from normal ones, so that it generates.

    `weight` is the weight of the loss of deceiving the discriminator, beside the loss that is summed over pixels.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        loss: str = "bce",
        noise: float = 0.0,
        weight: float = 10.0,
        features_from: str | None = None,
    ) -> None:
        super().__init__(model, loss=loss, noise=noise)
        check_range("task.weight", weight, 0)
        _expect(model, AdversarialAutoencoder, "adversarial_autoencoding")
        self.weight, self.judge = weight, Judge(features_from)

    @property
    def both(self) -> AdversarialAutoencoder:
        """The model, typed as an adversarial autoencoder."""
        return cast(AdversarialAutoencoder, self.model)

    def check(self, data: Data) -> None:
        """Raises RlkitError for a test of one sample, whose latent numbers can't be compared with normal ones."""
        if len(data.test) == 1:
            raise RlkitError(
                "task=adversarial_autoencoding compares latent numbers: expected 2 samples or more to test"
            )
        self.judge.check(data)

    def parts(self) -> dict[str, nn.Module]:
        """Returns the autoencoder, and the discriminator of latent numbers."""
        return {"autoencoder": self.both.autoencoder, "discriminator": self.both.discriminator}

    def losses(self, batch: Batch) -> Iterator[Loss]:
        """Yields the discriminator's loss, then the autoencoder's: that of the pixels and of the deception."""
        images = in_unit_range(batch.inputs)
        with torch.no_grad():
            latents = self.both.encode(self.add_noise(images))
        discriminate = self.both.discriminator
        d_loss = objectives.discriminator_loss(discriminate(torch.randn_like(latents)), discriminate(latents))
        yield Loss("discriminator", d_loss, {"discriminator_loss": d_loss})
        latents = self.both.encode(self.add_noise(images))
        logits = self.both.decoder(latents)
        pixels = objectives.reconstruction_loss(logits, images, self.loss)
        g_loss = objectives.generator_loss(discriminate(latents))
        mse = functional.mse_loss(logits.sigmoid(), images)
        yield Loss("autoencoder", pixels + self.weight * g_loss, {"loss": pixels, "generator_loss": g_loss, "mse": mse})

    @torch.no_grad()
    def finish(self, data: Data, inputs: Inputs) -> dict[str, float]:
        """Returns an autoencoder's results and the latent numbers' Fréchet distance from normal ones."""
        results = super().finish(data, inputs)
        images = some_inputs(data, inputs, MOST_SAMPLES)
        prior = torch.randn(len(images), self.both.feature_size, device=images.device)
        samples = self.both.decoder(prior).sigmoid()
        training = some_inputs(data, inputs, MOST_SAMPLES, part="train")
        results["latent_frechet_distance"] = frechet_distance(prior, self.both.encode(images))
        return results | self.judge.compare(images, samples, training)

    def pictures(self, data: Data, inputs: Inputs) -> dict[str, Picture]:
        """Returns an autoencoder's pictures and that of generated images."""

        def draw_samples(path: Path) -> None:
            device = some_inputs(data, inputs, 1).device
            draw_tiles(path, decoded(self.both.decoder, DRAWN_SAMPLES, self.both.feature_size, device), COLUMNS)

        return {**super().pictures(data, inputs), "samples.png": draw_samples}


# Adversaries


class Adversarial(Task):
    """Train a generator against a discriminator or critic. Pixels must be in [−1, 1]: `scale=signed`.

    `objective` is `minimax`, `non_saturating`, `wasserstein`, `hinge` or `least_squares`. A Wasserstein critic is kept
    Lipschitz by `gradient_penalty` (WGAN-GP: 10) or `weight_clip` (WGAN: 0.01). The generator learns from every
    `discriminator_steps`-th batch. `features_from` is the run folder of a classifier of such images, in whose features
    the Fréchet distance of generated images is measured at the end. Raises RlkitError for fields that cannot work.
    """

    better: Mapping[str, Better] = {"loss": "smaller", "score_gap": "smaller"}
    batches: Tensor

    def __init__(
        self,
        model: nn.Module,
        *,
        objective: str = "non_saturating",
        gradient_penalty: float = 0.0,
        weight_clip: float | None = None,
        discriminator_steps: int = 1,
        features_from: str | None = None,
    ) -> None:
        super().__init__(model)
        check_choice("task.objective", objective, objectives.OBJECTIVES)
        check_range("task.gradient_penalty", gradient_penalty, 0)
        check_range("task.weight_clip", weight_clip, 0, exclusive=True)
        check_range("task.discriminator_steps", discriminator_steps, 1)
        _expect(model, Adversaries, "adversarial")
        if objective == "wasserstein" and not gradient_penalty and weight_clip is None:
            raise RlkitError(
                "task.objective=wasserstein needs a Lipschitz critic: task.gradient_penalty=10 or task.weight_clip=0.01"
            )
        self.objective, self.gradient_penalty, self.weight_clip = objective, gradient_penalty, weight_clip
        self.discriminator_steps, self.judge = discriminator_steps, Judge(features_from)
        self.register_buffer("batches", torch.tensor(0))

    @property
    def gan(self) -> Adversaries:
        """The model, typed as a pair of adversaries."""
        return cast(Adversaries, self.model)

    def check(self, data: Data) -> None:
        """Raises RlkitError for data on which generated samples can't be judged."""
        self.judge.check(data, conditional=bool(self.gan.num_classes))

    def parts(self) -> dict[str, nn.Module]:
        """Returns the generator and the discriminator, which have an optimiser each."""
        return {"generator": self.gan.generator, "discriminator": self.gan.discriminator}

    def losses(self, batch: Batch) -> Iterator[Loss]:
        """Yields the discriminator's loss, and in every `discriminator_steps`-th batch the generator's."""
        real, labels = in_signed_range(batch.inputs), self.labels(batch)
        with torch.no_grad():
            fake = self.gan(self.gan.draw_latents(len(real)), labels)
        yield self.discriminator_loss(real, fake, labels)
        if self.weight_clip is not None:
            with torch.no_grad():
                for parameter in self.gan.discriminator.parameters():
                    parameter.clamp_(-self.weight_clip, self.weight_clip)
        self.batches += 1
        if int(self.batches) % self.discriminator_steps == 0:
            self.gan.discriminator.requires_grad_(False)  # its gradients would be computed for nothing
            yield self.generator_loss(len(real), labels)
            self.gan.discriminator.requires_grad_(True)

    def discriminator_loss(self, real: Tensor, fake: Tensor, labels: Tensor | None) -> Loss:
        """Returns the discriminator's loss on real and generated samples, with the gradient penalty if there is one."""

        def discriminate(inputs: Tensor) -> Tensor:
            score: Tensor = self.gan.discriminator(inputs, labels)
            return score

        real_score, fake_score = discriminate(real), discriminate(fake)
        loss = objectives.discriminator_loss(real_score, fake_score, self.objective)
        metrics = {"loss": loss, "score_gap": real_score.mean() - fake_score.mean()}
        if self.gradient_penalty:
            penalty = objectives.gradient_penalty(discriminate, real, fake)
            loss, metrics["gradient_penalty"] = loss + self.gradient_penalty * penalty, penalty
        return Loss("discriminator", loss, metrics)

    def generator_loss(self, count: int, labels: Tensor | None) -> Loss:
        """Returns the generator's loss on newly generated samples: small if they deceive the discriminator."""
        fake = self.gan(self.gan.draw_latents(count), labels)
        loss = objectives.generator_loss(self.gan.discriminator(fake, labels), self.objective)
        return Loss("generator", loss, {"generator_loss": loss})

    def labels(self, batch: Batch) -> Tensor | None:
        """Returns the labels that conditional adversaries get beside the samples; None for others."""
        return batch.targets if self.gan.num_classes else None

    def measure(self, batch: Batch) -> dict[str, Tensor]:
        """Returns the discriminator's loss on held-out samples, which says little about how good generated ones are."""
        labels = self.labels(batch)
        fake = self.gan(self.gan.draw_latents(len(batch.inputs)), labels)
        real_score, fake_score = self.gan.discriminator(batch.inputs, labels), self.gan.discriminator(fake, labels)
        loss = objectives.discriminator_loss(real_score, fake_score, self.objective)
        return {"loss": loss, "score_gap": real_score.mean() - fake_score.mean()}

    @torch.no_grad()
    def finish(self, data: Data, inputs: Inputs) -> dict[str, float]:
        """Returns a comparison of generated samples with the data.

        Points of the plane are compared by the modes that they cover, images by a classifier's features.
        """
        real = some_inputs(data, inputs, MOST_SAMPLES)
        fake, labels = self.generated(len(real), real.device)
        if real.dim() == 2:
            return points_metrics(data, inputs, fake)
        real, fake = (real + 1) / 2, (fake + 1) / 2
        results = self.judge.compare(real, fake, (some_inputs(data, inputs, MOST_SAMPLES, part="train") + 1) / 2)
        if results and labels is not None:
            predicted = self.judge.features(fake)[1].argmax(1)
            results["conditional_accuracy"] = float((predicted == labels).double().mean())
        return results

    def generated(self, count: int, device: torch.device) -> tuple[Tensor, Tensor | None]:
        """Returns as many generated samples, and for conditional adversaries their labels, which take turns."""
        labels = torch.arange(count, device=device) % self.gan.num_classes if self.gan.num_classes else None
        latents = self.gan.draw_latents(count)
        chunks = torch.arange(count, device=device).chunk(max(1, count // 500))
        samples = [self.gan(latents[some], None if labels is None else labels[some]) for some in chunks]
        return torch.cat(samples), labels

    def pictures(self, data: Data, inputs: Inputs) -> dict[str, Picture]:
        """Returns the picture of generated images, or of generated points of the plane beside the data's."""
        if len(data.input_shape) == 1 and data.input_shape != (2,):
            return {}
        return {"samples.png": partial(self._draw_samples, data, inputs)}

    def _draw_samples(self, data: Data, inputs: Inputs, path: Path) -> None:
        real = some_inputs(data, inputs, DRAWN_POINTS)
        if real.dim() == 2:
            draw_points(path, {"data": real, "generated": self.generated(len(real), real.device)[0]})
        else:
            columns = self.gan.num_classes or COLUMNS
            draw_tiles(path, (self.generated(10 * columns, real.device)[0] + 1) / 2, columns)


class InformationMaximizing(Adversarial):
    """Train an InfoGAN, whose generator also learns to make images in which its codes can be found.

    `information` weighs the loss of finding the codes.
    """

    def __init__(self, model: nn.Module, *, information: float = 1.0, features_from: str | None = None) -> None:
        super().__init__(model, features_from=features_from)
        check_range("task.information", information, 0)
        _expect(model, InfoGAN, "information_maximizing")
        self.information = information

    @property
    def info(self) -> InfoGAN:
        """The model, typed as an InfoGAN."""
        return cast(InfoGAN, self.model)

    def parts(self) -> dict[str, nn.Module]:
        """Returns the adversaries, and the code finder: the discriminator's convolutions with a head of its own."""
        finder = nn.ModuleList([self.gan.discriminator.get_submodule("features"), self.info.code_head])
        return {**super().parts(), "code_finder": finder}

    def losses(self, batch: Batch) -> Iterator[Loss]:
        """Yields the losses of the discriminator, of the code finder and of the generator."""
        real = in_signed_range(batch.inputs)
        latents = self.gan.draw_latents(len(real))
        with torch.no_grad():
            fake = self.gan(latents)
        yield self.discriminator_loss(real, fake, None)
        found = self.code_loss(fake, latents)
        yield Loss("code_finder", found, {"information_loss": found})
        latents = self.gan.draw_latents(len(real))
        fake = self.gan(latents)
        g_loss = objectives.generator_loss(self.gan.discriminator(fake), self.objective)
        yield Loss(
            "generator",
            g_loss + self.information * self.code_loss(fake, latents),
            {"generator_loss": g_loss},
        )

    def code_loss(self, images: Tensor, latents: Tensor) -> Tensor:
        """Returns the loss of finding the codes of `latents` in the images that were made from them."""
        return objectives.information_loss(*self.info.find_codes(images), *self.info.codes(latents))

    @torch.no_grad()
    def finish(self, data: Data, inputs: Inputs) -> dict[str, float]:
        """Returns the information about the code in an image, and the codes' purity.

        `code_purity`, which needs a classifier, is the share of images that are of the most frequent class of their
        code.
        """
        results = super().finish(data, inputs)
        latents = self.gan.draw_latents(2000)
        images = self.gan(latents)
        logits, _ = self.info.find_codes(images)
        codes, _ = self.info.codes(latents)
        cross_entropy = float(functional.cross_entropy(logits, codes))
        results["information"] = objectives.information_bound(cross_entropy, self.info.num_codes)
        if self.judge.model is not None:
            probabilities = self.judge.features((images + 1) / 2)[1]
            counts = (
                functional.one_hot(codes, self.info.num_codes).double().T
                @ functional.one_hot(probabilities.argmax(1), probabilities.shape[1]).double()
            )
            results["code_purity"] = float(counts.max(1).values.sum() / counts.sum())
        return results

    def pictures(self, data: Data, inputs: Inputs) -> dict[str, Picture]:
        """Returns the pictures of generated images and of a column of images per code."""
        return {**super().pictures(data, inputs), "codes.png": self._draw_codes}

    def _draw_codes(self, path: Path) -> None:
        latents = self.gan.draw_latents(COLUMNS)
        end = latents.shape[1] - self.info.num_continuous
        rows = latents.repeat_interleave(self.info.num_codes, 0)  # in a row, all codes share their noise
        one_hot = torch.eye(self.info.num_codes, device=latents.device).repeat(COLUMNS, 1)
        rows[:, end - self.info.num_codes : end] = one_hot
        draw_tiles(path, (self.gan(rows) + 1) / 2, self.info.num_codes)


class CycleConsistency(Task):
    """Translate images of one kind to another and back, without pairs. Pixels must be in [−1, 1]: `scale=signed`.

    The other kind is made from half of each batch, so that translations can be compared with the right ones: `other` is
    `negative`, or `thick`, the maximum over 3 × 3 pixels. `cycle` weighs the error of a translation there and back.
    """

    better: Mapping[str, Better] = {"loss": "smaller", "cycle_error": "smaller"}

    def __init__(self, model: nn.Module, *, other: str = "thick", cycle: float = 10.0) -> None:
        super().__init__(model)
        check_choice("task.other", other, ["negative", "thick"])
        check_range("task.cycle", cycle, 0)
        _expect(model, CycleGAN, "cycle_consistency")
        self.other, self.cycle = other, cycle

    @property
    def smallest_batch(self) -> int:
        """2: half of a batch is of each kind."""
        return 2

    @property
    def nets(self) -> CycleGAN:
        """The model, typed as a CycleGAN."""
        return cast(CycleGAN, self.model)

    def parts(self) -> dict[str, nn.Module]:
        """Returns both translators as one part and both discriminators as another."""
        return {"translators": self.nets.translators, "discriminators": self.nets.discriminators}

    def translated(self, images: Tensor) -> Tensor:
        """Returns the images as a perfect translator would translate them."""
        return -images if self.other == "negative" else functional.max_pool2d(images, 3, 1, padding=1)

    def losses(self, batch: Batch) -> Iterator[Loss]:
        """Yields the discriminators' loss, then the translators'."""
        images = in_signed_range(batch.inputs)
        if len(images) < 2:
            raise RlkitError("task=cycle_consistency needs batches of 2 images or more, half of them of each kind")
        half = len(images) // 2
        a, b = images[:half], self.translated(images[half:])  # from different images, so that there are no pairs
        a_to_b, b_to_a = self.nets.translators["a_to_b"], self.nets.translators["b_to_a"]
        judge_a, judge_b = self.nets.discriminators["a"], self.nets.discriminators["b"]
        with torch.no_grad():
            fake_a, fake_b = b_to_a(b), a_to_b(a)
        d_loss = objectives.discriminator_loss(judge_a(a), judge_a(fake_a), "least_squares")
        d_loss = d_loss + objectives.discriminator_loss(judge_b(b), judge_b(fake_b), "least_squares")
        yield Loss("discriminators", d_loss, {"loss": d_loss})
        fake_a, fake_b = b_to_a(b), a_to_b(a)
        g_loss = objectives.generator_loss(judge_a(fake_a), "least_squares")
        g_loss = g_loss + objectives.generator_loss(judge_b(fake_b), "least_squares")
        cycle_loss = objectives.cycle_loss(a, b_to_a(fake_b)) + objectives.cycle_loss(b, a_to_b(fake_a))
        yield Loss(
            "translators", g_loss + self.cycle * cycle_loss, {"generator_loss": g_loss, "cycle_loss": cycle_loss}
        )

    def measure(self, batch: Batch) -> dict[str, Tensor]:
        """Returns mean absolute errors: of the translation (`loss`), of one there and back, and of no translation."""
        translations = self.nets(batch.inputs)
        right = self.translated(batch.inputs)
        return {
            "loss": objectives.cycle_loss(right, translations),
            "cycle_error": objectives.cycle_loss(batch.inputs, self.nets.translators["b_to_a"](translations)),
            "untranslated_error": objectives.cycle_loss(right, batch.inputs),
        }

    def pictures(self, data: Data, inputs: Inputs) -> dict[str, Picture]:
        """Returns the picture of images, their translations, the right translations, and the translations back."""
        return {"translations.png": partial(self._draw_translations, data, inputs)}

    def _draw_translations(self, data: Data, inputs: Inputs, path: Path) -> None:
        images = some_inputs(data, inputs, COLUMNS)
        translations = self.nets(images)
        rows = [images, translations, self.translated(images), self.nets.translators["b_to_a"](translations)]
        draw_tiles(path, (torch.cat(rows) + 1) / 2, len(images))


# Functions that several tasks share


def in_unit_range(images: Tensor) -> Tensor:
    """Returns the images if all pixels are in [0, 1]; raises RlkitError otherwise."""
    if images.min() < 0 or images.max() > 1:
        raise RlkitError("the model's pixels are from 0 to 1, but the images are not: scale=unit")
    return images


def in_signed_range(inputs: Tensor) -> Tensor:
    """Returns the inputs if they are signed or no images; raises RlkitError for images that are not in [−1, 1].

    Images without a negative value are taken to be from 0 to 1.
    """
    if inputs.dim() == 4 and (inputs.min() >= 0 or inputs.abs().max() > 1):
        raise RlkitError("generated pixels are from −1 to 1, but the images are not: scale=signed")
    return inputs


def some_inputs(data: Data, inputs: Inputs, count: int, part: str = "test") -> Tensor:
    """Returns the first samples of the `train` or `test` part as the model gets them: (at most count, …)."""
    samples = data.train if part == "train" else data.test
    outputs: Tensor = inputs(samples.batch(torch.arange(min(count, len(samples)))).inputs)
    return outputs


def decoded(decoder: Callable[[Tensor], Tensor], count: int, latent_size: int, device: torch.device) -> Tensor:
    """Returns images that a decoder makes from latent numbers that are drawn from a normal distribution."""
    return decoder(torch.randn(count, latent_size, device=device)).sigmoid()


def pca_error(training: Tensor, test: Tensor, size: int) -> float:
    """Returns the mean squared error of PCA: of projecting `test` onto `size` principal components of `training`.

    Both are (n, values).
    """
    mean = training.mean(0)
    if len(training) > training.shape[1]:
        _, vectors = torch.linalg.eigh(torch.cov(training.T))
        components = vectors[:, -size:]  # the largest come last
    else:  # with fewer samples than values, the covariance would be a large matrix of low rank
        components = torch.linalg.svd(training - mean, full_matrices=False).Vh[:size].T
    projected = (test - mean) @ components @ components.T + mean
    return float(functional.mse_loss(projected, test))


def points_metrics(data: Data, inputs: Inputs, fake: Tensor) -> dict[str, float]:
    """Returns the number of groups of labelled points that generated points cover, and the share of them near one."""
    batch = data.train.batch(torch.arange(len(data.train)))
    points = inputs(batch.inputs)
    groups = [points[batch.targets == label] for label in range(data.num_outputs)]
    groups = [group for group in groups if len(group)]
    centers = torch.stack([group.mean(0) for group in groups])
    std = float(torch.cat([group - center for group, center in zip(groups, centers, strict=True)]).std())
    modes = mode_coverage(fake, centers, std)
    return {"modes_covered": float(modes.covered), "modes": float(len(groups)), "share_near_modes": modes.share_near}


def _expect(model: nn.Module, kind: type[nn.Module], task: str) -> None:
    if not isinstance(model, kind):
        raise RlkitError(f"task={task} trains {kind.__name__}, not {type(model).__name__}")
