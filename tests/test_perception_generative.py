"""Generative networks and what they are trained for: known answers, shapes, published sizes, errors."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rlkit.errors import RlkitError
from rlkit.perception.generative_metrics import frechet_distance, inception_score, mode_coverage
from rlkit.perception.models import make_model, objectives
from rlkit.perception.models.attention import SelfAttention, SelfAttentionGAN
from rlkit.perception.models.autoencoder import AdversarialAutoencoder, Autoencoder
from rlkit.perception.models.cyclegan import CycleGAN, ResidualLayer
from rlkit.perception.models.dcgan import DCGAN, InfoGAN
from rlkit.perception.models.gan import GAN, with_labels
from rlkit.perception.models.vae import VAE, reparameterize


def double(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


# Objectives


def test_gaussian_kl_is_the_closed_form_and_torchs() -> None:
    mean, log_variance = double([[0.0, 1.0, -2.0]]), double([[0.0, 1.0, -1.0]])
    by_hand = [0.0, -0.5 + 0.5 * math.e + 0.5 - 0.5, 0.5 + 0.5 / math.e + 2 - 0.5]
    assert objectives.gaussian_kl(mean, log_variance).tolist() == pytest.approx([sum(by_hand)])
    q = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    p = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean))
    expected = torch.distributions.kl_divergence(q, p).sum(1)
    torch.testing.assert_close(objectives.gaussian_kl(mean, log_variance), expected)


def test_elbo_is_a_lower_bound_and_tight_at_the_posterior() -> None:
    """One pixel and one latent number: p(x = 1|z) = σ(z); log p(x) by numerical integration."""
    torch.manual_seed(0)
    image = torch.ones(1, 1).double()
    grid = torch.linspace(-10, 10, 20_001, dtype=torch.float64)
    log_p = torch.logsumexp(
        (-0.5 * grid**2 - 0.5 * math.log(2 * math.pi)) + nn.functional.logsigmoid(grid), 0
    ) + math.log(20 / 20_000)
    assert log_p.item() == pytest.approx(math.log(0.5), abs=1e-4)
    bounds = []
    for mean, variance in ((0.0, 1.0), (0.4, 0.82), (2.0, 0.1)):
        mu, log_variance = double([[mean]]), double([[math.log(variance)]])
        z = reparameterize(mu.expand(200_000, 1), log_variance.expand(200_000, 1))
        bounds.append(objectives.elbo(z, image.expand(200_000, 1), mu, log_variance).item())
    assert max(bounds) <= math.log(0.5) + 2e-3
    assert bounds[1] == pytest.approx(math.log(0.5), abs=5e-3)  # near the posterior
    assert bounds[2] < bounds[0] < bounds[1]


def test_beta_weighs_the_kl_term() -> None:
    logits, images, mean, log_variance = (torch.rand(3, 4) for _ in range(4))
    plain, heavy = (objectives.elbo(logits, images, mean, log_variance, beta) for beta in (1.0, 4.0))
    torch.testing.assert_close(plain - heavy, 3 * objectives.gaussian_kl(mean, log_variance).mean())


def test_reconstruction_losses_of_known_pixels() -> None:
    logits, images = double([[0.0, 0.0], [100.0, -100.0]]), double([[1.0, 0.0], [1.0, 0.0]])
    assert objectives.reconstruction_loss(logits, images).item() == pytest.approx(math.log(2))
    assert objectives.reconstruction_loss(logits, images, "mse").item() == pytest.approx(0.25)
    with pytest.raises(RlkitError, match="did you mean 'mse'"):
        objectives.reconstruction_loss(logits, images, "msee")


def test_reparameterized_draws_have_the_moments_and_let_gradients_through() -> None:
    mean = torch.full((100_000, 1), 2.0, requires_grad=True)
    log_variance = torch.full((100_000, 1), math.log(0.25), requires_grad=True)
    z = reparameterize(mean, log_variance, torch.Generator().manual_seed(0))
    assert z.mean().item() == pytest.approx(2, abs=0.01)
    assert z.std().item() == pytest.approx(0.5, abs=0.01)
    gradients = torch.autograd.grad(z.sum(), [mean, log_variance])
    torch.testing.assert_close(gradients[0], torch.ones_like(mean))
    torch.testing.assert_close(gradients[1], 0.5 * (z - mean).detach())


def test_contractive_penalty_of_a_linear_map_is_its_squared_norm() -> None:
    layer = nn.Linear(5, 3).double()
    penalty = objectives.contractive_penalty(layer, torch.rand(4, 5).double())
    torch.testing.assert_close(penalty, (layer.weight**2).sum())
    assert penalty.requires_grad


def test_gan_losses_at_the_optimum() -> None:
    """With the optimal discriminator D = ½: L = −2 log 2, as the objective that it makes large."""
    half = torch.zeros(7).double()
    for objective in ("minimax", "non_saturating"):
        assert -objectives.discriminator_loss(half, half, objective).item() == pytest.approx(-2 * math.log(2))
    assert objectives.generator_loss(half, "minimax").item() == pytest.approx(math.log(0.5))
    assert objectives.generator_loss(half).item() == pytest.approx(-math.log(0.5))


@pytest.mark.parametrize(
    ("objective", "of_discriminator", "of_generator"),
    [
        ("non_saturating", math.log1p(math.exp(-2)) + math.log1p(math.exp(-0.5)), math.log1p(math.exp(0.5))),
        ("wasserstein", -2.5, 0.5),
        ("hinge", 0.5, 0.5),
        ("least_squares", 0.5 * (1 + 0.25), 0.5 * 2.25),
    ],
)
def test_objectives_by_hand(objective: str, of_discriminator: float, of_generator: float) -> None:
    real, fake = double([2.0]), double([-0.5])
    assert objectives.discriminator_loss(real, fake, objective).item() == pytest.approx(of_discriminator)
    assert objectives.generator_loss(fake, objective).item() == pytest.approx(of_generator)


def test_the_minimax_generator_loss_vanishes_where_the_discriminator_is_sure() -> None:
    slopes = {}
    for objective in ("minimax", "non_saturating"):
        fake = double([-20.0]).requires_grad_()
        (slopes[objective],) = torch.autograd.grad(objectives.generator_loss(fake, objective), fake)
    assert abs(slopes["minimax"].item()) < 1e-8
    assert slopes["non_saturating"].item() == pytest.approx(-1)


def test_unknown_objective_is_an_error() -> None:
    with pytest.raises(RlkitError, match="did you mean 'hinge'"):
        objectives.generator_loss(torch.zeros(1), "hinges")
    with pytest.raises(RlkitError, match="did you mean 'wasserstein'"):
        objectives.discriminator_loss(torch.zeros(1), torch.zeros(1), "wassserstein")


@pytest.mark.parametrize("slope", [1.0, 3.0])
def test_gradient_penalty_of_a_linear_critic(slope: float) -> None:
    """The gradient is the same everywhere: (|w| − 1)²."""
    direction = torch.nn.functional.normalize(torch.rand(3, 4, 4).double().flatten(), dim=0) * slope

    def critic(images: Tensor) -> Tensor:
        return images.flatten(1) @ direction

    real, fake = torch.rand(5, 3, 4, 4).double(), torch.rand(5, 3, 4, 4).double()
    assert objectives.gradient_penalty(critic, real, fake).item() == pytest.approx((slope - 1) ** 2)


def test_gradient_penalty_looks_between_real_and_fake() -> None:
    """|∇x²/2| = |x̂|: with real 1 and fake 0, x̂ = t."""
    seen = []

    def critic(x: Tensor) -> Tensor:
        seen.append(x.detach())
        return (x**2).sum(1) / 2

    penalty = objectives.gradient_penalty(critic, torch.ones(9, 1), torch.zeros(9, 1), torch.Generator().manual_seed(0))
    assert len(set(seen[0][:, 0].tolist())) == 9
    assert seen[0].min() >= 0
    assert seen[0].max() <= 1
    torch.testing.assert_close(penalty, ((seen[0] - 1) ** 2).mean())


def test_information_loss_and_bound() -> None:
    logits, codes = torch.zeros(4, 10), torch.arange(4)
    loss = objectives.information_loss(logits, torch.zeros(4, 2), codes, torch.full((4, 2), 0.5))
    assert loss.item() == pytest.approx(math.log(10) + 0.25)
    assert objectives.information_bound(math.log(10), 10) == pytest.approx(0)
    assert objectives.information_bound(0, 10) == pytest.approx(math.log(10))


def test_cycle_loss_is_the_mean_absolute_error() -> None:
    assert objectives.cycle_loss(double([1.0, 2.0]), double([0.0, 4.0])).item() == pytest.approx(1.5)


# Metrics


def test_frechet_distance_of_moved_and_scaled_samples() -> None:
    features = torch.randn(500, 6, generator=torch.Generator().manual_seed(0)).double()
    assert frechet_distance(features, features) == pytest.approx(0, abs=1e-9)
    move = torch.arange(6.0).double()
    assert frechet_distance(features, features + move) == pytest.approx(float((move**2).sum()))
    # x -> 3x: mean moves by 2μ, and tr(Σ + 9Σ − 6Σ) = 4 tr Σ
    expected = 4 * float((features.mean(0) ** 2).sum() + torch.cov(features.T).trace())
    assert frechet_distance(features, 3 * features) == pytest.approx(expected)
    assert frechet_distance(3 * features, features) == pytest.approx(expected)


def test_frechet_distance_agrees_with_the_matrix_square_root() -> None:
    linalg = pytest.importorskip("scipy.linalg")
    generator = torch.Generator().manual_seed(1)
    a = torch.randn(60, 4, generator=generator).double() @ torch.randn(4, 4, generator=generator).double()
    b = torch.randn(60, 4, generator=generator).double() + 1
    first, second = torch.cov(a.T), torch.cov(b.T)
    root = torch.from_numpy(linalg.sqrtm((first @ second).numpy()).real)
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + (first + second - 2 * root).trace()
    assert frechet_distance(a, b) == pytest.approx(expected.item())
    with pytest.raises(RlkitError, match="got 1 and 60"):
        frechet_distance(a[:1], b)


def test_frechet_distance_of_features_that_do_not_vary() -> None:
    assert frechet_distance(torch.zeros(5, 3), torch.ones(7, 3)) == pytest.approx(3)


def test_inception_score_is_the_number_of_sure_and_even_classes() -> None:
    assert inception_score(torch.eye(10)) == pytest.approx(10)
    assert inception_score(torch.full((10, 10), 0.1)) == pytest.approx(1)
    assert inception_score(torch.eye(10)[:1].expand(10, 10)) == pytest.approx(1)  # one mode


def test_mode_coverage_counts_modes_and_samples_near_them() -> None:
    centers = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0]])
    samples = torch.cat(
        [centers[0].expand(50, 2), centers[1].expand(45, 2), centers[2].expand(2, 2), torch.full((3, 2), 5.0)]
    )
    covered, share = mode_coverage(samples, centers, 0.1)
    assert covered == 2
    assert share == pytest.approx(0.97)
    assert mode_coverage(centers.repeat(25, 1) + 0.2, centers, 0.1).covered == 4
    assert mode_coverage(centers.repeat(25, 1) + 0.3, centers, 0.1).covered == 0


# Networks


def test_autoencoder_has_the_sources_layers() -> None:
    sizes = [
        (layer.in_features, layer.out_features) for layer in Autoencoder().modules() if isinstance(layer, nn.Linear)
    ]
    assert sizes == [(784, 256), (256, 128), (128, 20), (20, 128), (128, 256), (256, 784)]


def test_vae_has_the_sources_layers() -> None:
    """The two heads of 20 are one layer of 40."""
    sizes = [(layer.in_features, layer.out_features) for layer in VAE().modules() if isinstance(layer, nn.Linear)]
    assert sizes == [(784, 128), (128, 40), (20, 128), (128, 784)]


@pytest.mark.parametrize("channels", [[], [8, 16]])
@pytest.mark.parametrize("name", ["autoencoder", "adversarial_autoencoder", "vae"])
def test_autoencoders_keep_the_shape(name: str, channels: list[int]) -> None:
    model = make_model(name, input_shape=[3, 8, 12], latent_size=5, channels=channels)
    images = torch.rand(2, 3, 8, 12)
    outputs = model(images)
    logits = outputs[0] if name == "vae" else outputs
    assert logits.shape == images.shape
    encode: Any = model.encode
    assert encode(images).shape == (2, 5)
    assert model.feature_size == 5
    decoder: Any = model.decoder
    assert decoder(torch.zeros(7, 5)).shape == (7, 3, 8, 12)


def test_dropout_autoencoder_drops_only_while_training() -> None:
    torch.manual_seed(0)
    model = Autoencoder(dropout=0.5)
    images = torch.rand(2, 1, 28, 28)
    assert not torch.equal(model(images), model(images))
    model.eval()
    assert torch.equal(model(images), model(images))


def test_linear_autoencoder_finds_the_principal_components() -> None:
    """Without hidden layers the best reconstruction is PCA's: here of data on a line, which one number describes."""
    torch.manual_seed(0)
    line = torch.randn(200, 1) @ torch.tensor([[0.8, -0.6, 0.0]]) + 0.01 * torch.randn(200, 3)
    model = Autoencoder(input_shape=[3], latent_size=1, hidden_sizes=[])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(300):
        optimizer.zero_grad()
        torch.autograd.backward(((model(line) - line) ** 2).mean())
        optimizer.step()
    direction = model.decoder.get_parameter("0.weight").detach()[:, 0]
    assert abs((direction / direction.norm())[:2] @ torch.tensor([0.8, -0.6])).item() > 0.999
    assert ((model(line) - line) ** 2).mean().item() < 3e-4


def test_discriminator_of_latents() -> None:
    model = AdversarialAutoencoder(latent_size=3)
    assert model.discriminator(torch.zeros(4, 3)).shape == (4,)


def sizes_inside(network: nn.Module, *inputs: Tensor) -> list[list[int]]:
    seen: list[list[int]] = []
    kinds = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
    for module in network.modules():
        if isinstance(module, kinds):
            module.register_forward_hook(lambda m, i, output: seen.append(list(output.shape[1:])))
    network(*inputs)
    return seen


def test_dcgan_shapes() -> None:
    with torch.device("meta"):
        model = DCGAN()
        generated = sizes_inside(model.generator, torch.empty(2, 100))
        judged = sizes_inside(model.discriminator, torch.empty(2, 3, 64, 64))
    assert generated == [[512, 4, 4], [256, 8, 8], [128, 16, 16], [64, 32, 32], [3, 64, 64]]
    assert judged == [[64, 31, 31], [128, 14, 14], [256, 6, 6], [512, 4, 4], [1024, 2, 2], [1]]
    weights = [p.numel() for name, p in model.generator.named_parameters() if p.dim() == 4]
    assert weights == [100 * 512 * 16, 512 * 256 * 16, 256 * 128 * 16, 128 * 64 * 16, 64 * 3 * 16]


@pytest.mark.parametrize(("side", "start"), [(28, 7), (32, 4), (64, 4), (48, 6)])
@pytest.mark.parametrize("name", ["dcgan", "infogan", "self_attention_gan"])
def test_small_images_are_generated_and_judged(name: str, side: int, start: int) -> None:
    torch.manual_seed(0)
    fields = {} if name == "self_attention_gan" else {"small_input": True}
    model = make_model(name, input_shape=[1, side, side], width=4, **fields)
    draw: Any = model.draw_latents
    images = model(draw(3))
    assert images.shape == (3, 1, side, side)
    assert images.abs().max() <= 1
    discriminator: Any = model.discriminator
    assert discriminator(images).shape == (3,)
    assert sizes_inside(model, draw(3))[0][1:] == [start, start]


@pytest.mark.parametrize("name", ["gan", "dcgan", "self_attention_gan"])
def test_labels_change_what_both_adversaries_say(name: str) -> None:
    torch.manual_seed(0)
    fields = {"small_input": True} if name == "dcgan" else {}
    model = make_model(name, input_shape=[1, 28, 28], num_outputs=10, conditional=True, **fields).eval()
    draw: Any = model.draw_latents
    latents = draw(1)
    images = [model(latents, torch.tensor([label])) for label in (0, 1)]
    assert not torch.equal(*images)
    discriminator: Any = model.discriminator
    scores = [discriminator(images[0], torch.tensor([label])) for label in (0, 1)]
    assert not torch.equal(*scores)


def test_labels_are_one_hot_columns_or_maps() -> None:
    labels = torch.tensor([2, 0])
    assert with_labels(torch.zeros(2, 1), labels, 3).tolist() == [[0, 0, 0, 1], [0, 1, 0, 0]]
    maps = with_labels(torch.zeros(2, 1, 2, 2), labels, 3)
    assert maps.shape == (2, 4, 2, 2)
    assert maps[0, 3].all()
    assert not maps[0, :3].any()


def test_gan_of_points_is_not_bounded() -> None:
    torch.manual_seed(0)
    model = GAN(input_shape=[2], latent_size=2)
    assert model(100 * model.draw_latents(50)).abs().max() > 1
    assert model.discriminator(torch.zeros(4, 2)).shape == (4,)


@pytest.mark.parametrize("prior", ["normal", "uniform"])
def test_latent_priors(prior: str) -> None:
    torch.manual_seed(0)
    latents = GAN(prior=prior, latent_size=100).draw_latents(1000)
    assert latents.std().item() == pytest.approx(1 if prior == "normal" else 1 / math.sqrt(3), rel=0.02)
    assert (latents.abs().max() <= 1).item() is (prior == "uniform")


def test_infogan_finds_codes_of_the_right_shape() -> None:
    torch.manual_seed(0)
    model = InfoGAN(width=4, noise_size=6, num_codes=5, num_continuous=2)
    latents = model.draw_latents(200)
    codes, continuous = model.codes(latents)
    assert latents.shape == (200, 13)
    assert sorted(set(codes.tolist())) == [0, 1, 2, 3, 4]
    assert continuous.abs().max() <= 1
    assert (latents[:, 6:11].sum(1) == 1).all()
    logits, means = model.find_codes(model(latents[:3]))
    assert logits.shape == (3, 5)
    assert means.shape == (3, 2)


def test_self_attention_is_torchs_and_starts_as_the_identity() -> None:
    torch.manual_seed(0)
    layer = SelfAttention(16)
    images = torch.rand(2, 16, 3, 4)
    assert torch.equal(layer(images), images)
    torch.testing.assert_close(layer.weights(images).sum(2), torch.ones(2, 12))
    nn.init.ones_(layer.gamma)
    query, key, value = (part(images).flatten(2).transpose(1, 2) for part in (layer.query, layer.key, layer.value))
    attended = nn.functional.scaled_dot_product_attention(query, key, value, scale=1.0)
    torch.testing.assert_close(layer(images), images + attended.transpose(1, 2).view_as(images))


def test_spectral_norms_are_one() -> None:
    torch.manual_seed(0)
    model = SelfAttentionGAN(width=4)
    for _ in range(30):  # each pass refines the estimate
        model.discriminator(torch.zeros(2, 1, 28, 28))
    weights = [layer.weight for layer in model.discriminator.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    norms = [torch.linalg.matrix_norm(weight.flatten(1), 2).item() for weight in weights]
    assert norms == pytest.approx([1.0] * len(norms), rel=0.02)


def test_cyclegan_shapes() -> None:
    model = CycleGAN(width=4, blocks=1, input_shape=[3, 32, 32])
    images = torch.rand(2, 3, 32, 32)
    translated = model(images)
    assert translated.shape == images.shape
    assert model.discriminators["b"](translated).shape == (2, 1, 8, 8)


def test_patches_are_of_18_pixels() -> None:
    model = CycleGAN(input_shape=[1, 64, 64])
    image = torch.rand(1, 1, 64, 64, requires_grad=True)
    layers = [layer for layer in model.discriminators["a"].children() if not isinstance(layer, nn.InstanceNorm2d)]
    (gradient,) = torch.autograd.grad(nn.Sequential(*layers)(image)[0, 0, 8, 8], image)
    rows = gradient[0, 0].any(1).nonzero()
    assert int(rows.max() - rows.min()) + 1 == 18


def test_residual_layer_adds_to_its_input() -> None:
    layer = ResidualLayer(2)
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    images = torch.rand(1, 2, 6, 6)
    assert torch.equal(layer(images), images)


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("dcgan", {"input_shape": [1, 28, 28]}, "makes images of 64 x 64, not 28 x 28: resize=64, or small_input=true"),
        ("dcgan", {"input_shape": [1, 30, 30], "small_input": True}, "can't make images of 30 x 30.* such as 28"),
        ("infogan", {"input_shape": [1, 28, 32]}, "can't make images of 28 x 32"),
        ("vae", {"input_shape": [1, 27, 27], "channels": [4, 8]}, r"27 x 27 must be multiples of 4, such as 28"),
        ("cyclegan", {"input_shape": [1, 6, 6]}, "multiples of 4, such as 8"),
        ("gan", {"prior": "normall"}, "did you mean 'normal'"),
        ("vae", {"latent_size": 0}, "latent_size=0 is out of range"),
        ("autoencoder", {"input_shape": [784], "channels": [4]}, "must be .channels, height, width."),
        ("dcgan", {"discriminator_norm": "bath"}, "did you mean 'batch'"),
    ],
)
def test_fields_that_cannot_work_are_errors(name: str, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(RlkitError, match=message):
        make_model(name, **fields)
