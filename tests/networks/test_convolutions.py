"""Convolutional networks: rows in, rows out."""

import copy

import pytest
import torch
from torch import nn
from torch.distributions import Normal

from ppl_vae.data import load_dataset
from ppl_vae.guides import DiagonalNormalEncoder
from ppl_vae.likelihoods import BernoulliDecoder, NormalDecoder
from ppl_vae.networks import DECODER_NETWORKS, ENCODER_NETWORKS, FeatureBias, set_output_bias
from ppl_vae.objectives import ELBO
from ppl_vae.priors import StandardNormalPrior
from ppl_vae.training import fit
from ppl_vae.vae import VAE

NAMES = ["conv", "resnet"]
SHAPES = [(8, 8), (28, 28), (3, 32, 32), (2, 4, 12)]
SMALL = {"hidden": (10,), "channels": (3, 4)}


def encoder(name, image_shape=(8, 8), out_features=5, blocks=1, **own):
    features = blocks * torch.Size(image_shape).numel()
    arguments = {**SMALL, **own}
    return ENCODER_NETWORKS[name](
        in_features=features, out_features=out_features, image_shape=image_shape, **arguments
    )


def decoder(name, image_shape=(8, 8), in_features=5, blocks=1, **own):
    features = blocks * torch.Size(image_shape).numel()
    arguments = {**SMALL, **own}
    return DECODER_NETWORKS[name](
        in_features=in_features, out_features=features, image_shape=image_shape, **arguments
    )


def both(name, **own):
    """Each with an input of 4 rows."""
    return (encoder(name, **own), torch.randn(4, 64)), (decoder(name, **own), torch.randn(4, 5))


def inputs_and_outputs(net, x, layers):
    """Of each of the layers while the network runs."""
    seen = []
    for layer in layers:
        layer.register_forward_hook(lambda _, given, output: seen.append((*given, output)))
    net(x)
    return seen


@pytest.mark.parametrize("name", NAMES)
class TestBoth:
    @pytest.mark.parametrize("image_shape", SHAPES)
    @pytest.mark.parametrize("blocks", [1, 3])
    def test_sizes(self, name, image_shape, blocks):
        features = blocks * torch.Size(image_shape).numel()
        assert encoder(name, image_shape, blocks=blocks)(torch.randn(2, features)).shape == (2, 5)
        assert decoder(name, image_shape, blocks=blocks)(torch.randn(2, 5)).shape == (2, features)

    @pytest.mark.parametrize("shape", [(), (1,), (3, 2), (2, 1, 3), (0,)])
    def test_any_leading_shape(self, name, shape):
        for net, rows in both(name):
            x = torch.randn(*shape, rows.shape[-1])
            found = net(x)
            expected = net(x.reshape(-1, rows.shape[-1]))
            assert found.shape == (*shape, expected.shape[-1])
            torch.testing.assert_close(found.reshape(expected.shape), expected)

    def test_a_row_does_not_see_the_others(self, name):
        for net, x in both(name):
            other = torch.cat([x[:1], torch.randn(3, x.shape[-1])])
            torch.testing.assert_close(net(x)[0], net(other)[0])

    def test_double_precision(self, name):
        for net, x in both(name):
            single, double = net(x), net.double()(x.double())
            assert double.dtype == torch.float64
            torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-5)

    def test_gradients_reach_every_parameter(self, name):
        for net, x in both(name):
            net(x).square().sum().backward()
            assert all(p.grad.abs().sum() > 0 for p in net.parameters())

    def test_copies(self, name):
        for (first, x), (second, _) in zip(both(name), both(name), strict=True):
            assert not torch.equal(first(x), second(x))
            second.load_state_dict(first.state_dict())
            assert torch.equal(first(x), second(x))
            assert torch.equal(first(x), copy.deepcopy(first)(x))

    @pytest.mark.parametrize("activation", ["tanh", "relu"])
    def test_the_activation_is_the_one_asked_for(self, name, activation):
        kind = {"tanh": nn.Tanh, "relu": nn.ReLU}[activation]
        for net, _ in both(name, activation=activation):
            found = [
                m for m in net.modules() if not list(m.children()) and not list(m.parameters())
            ]
            assert found
            assert all(isinstance(module, kind) for module in found)

    @pytest.mark.parametrize("channels", [(3,), (3, 4, 5)])
    def test_a_halving_for_each_channel_size(self, name, channels):
        finest = {8 // 2**i: c for i, c in enumerate((1, *channels))}
        for net, x in both(name, channels=channels):
            layers = [m for m in net.modules() if getattr(m, "stride", None) == (2, 2)]
            sizes = inputs_and_outputs(net, x, layers)
            assert len(sizes) == len(channels)
            for before, after in sizes:
                assert (before.shape[1], after.shape[1]) == (
                    finest[before.shape[-1]],
                    finest[after.shape[-1]],
                )

    @pytest.mark.parametrize("channels", [(), (0,), (3, -1)])
    def test_channels_below_one(self, name, channels):
        for make in (encoder, decoder):
            with pytest.raises(ValueError, match="needs 1 or more channel sizes"):
                make(name, channels=channels)

    def test_images_that_cannot_be_halved(self, name):
        for make in (encoder, decoder):
            with pytest.raises(ValueError, match="images of 10 x 10 pixels cannot be halved 2"):
                make(name, image_shape=(10, 10))

    def test_an_unknown_activation(self, name):
        for make in (encoder, decoder):
            with pytest.raises(ValueError, match="unknown activation 'sine'"):
                make(name, activation="sine")


@pytest.mark.parametrize("name", NAMES)
class TestEncoder:
    def test_convolutions_see_the_image(self, name):
        """Channels outermost, then lines; blocks of them are more channels."""
        net, x = encoder(name, (2, 4, 8), blocks=2), torch.randn(3, 2 * 64)
        first = next(m for m in net.modules() if isinstance(m, nn.Conv2d))
        ((image, _),) = inputs_and_outputs(net, x, [first])
        torch.testing.assert_close(image, x.unflatten(-1, (4, 4, 8)))


@pytest.mark.parametrize("name", NAMES)
class TestDecoder:
    def test_outputs_are_blocks_of_rows(self, name):
        net, z = decoder(name, (2, 4, 8), blocks=3), torch.randn(5, 5)
        last = [m for m in net.modules() if isinstance(m, nn.ConvTranspose2d)][-1]
        ((_, images),) = inputs_and_outputs(net, z, [last])
        torch.testing.assert_close(net(z).unflatten(-1, (3, 2, 4, 8)), images.unflatten(1, (3, 2)))

    def test_it_starts_near_the_bias(self, name):
        """Each pixel's own; what z adds is small beside 1."""
        net, bias = decoder(name, (28, 28), hidden=(200,), channels=(32, 64)), torch.randn(784)
        set_output_bias(net, bias)
        output = net(torch.randn(100, 5))
        assert (output - bias).std() < 0.5
        assert (output - bias).std(0).min() > 0

    def test_the_bias_is_learned(self, name):
        (bias,) = [m for m in decoder(name).modules() if isinstance(m, FeatureBias)]
        assert bias.bias.requires_grad

    def test_a_decoder_of_digits_starts_at_their_mean(self, name):
        mean = load_dataset("digits").train.mean(0)
        vae = BernoulliDecoder(decoder(name), mean)
        with torch.no_grad():
            found = vae(0 * torch.randn(1, 5)).mean[0]
        rough = decoder(name)(0 * torch.randn(1, 5))[0].sigmoid()
        assert (found - mean).abs().mean() < 0.1 < (rough - mean).abs().mean()

    def test_rows_that_are_no_images(self, name):
        with pytest.raises(ValueError, match=r"images of 1 x 8 x 8 have 64 features.*got 100"):
            DECODER_NETWORKS[name](5, (10,), 100, (8, 8))


@pytest.mark.parametrize("blocks", [0, 1, 2])
def test_residual_blocks(blocks):
    """Two convolutions each, after both of two halvings."""
    net = ENCODER_NETWORKS["resnet"](64, (10,), 5, (8, 8), channels=(3, 4), blocks=blocks)
    assert sum(isinstance(m, nn.Conv2d) for m in net.modules()) == 2 + 4 * blocks


def small_vae(name, image_shape, likelihood):
    body = {"hidden": (30,), "channels": (8, 16)}
    q = DiagonalNormalEncoder(encoder(name, image_shape, 2 * 4, **body))
    return VAE(StandardNormalPrior(4), likelihood(decoder(name, image_shape, 4, **body)), q)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("step", ["torch", "svi"])
def test_digits_are_learned(name, step):
    """Beyond the mean image, which is where the decoder starts."""
    x = load_dataset("digits").train[:600]
    vae = small_vae(name, (8, 8), lambda net: NormalDecoder(net, 0.2, data_mean=x.mean(0)))
    settings = {"epochs": 3, "batch_size": 50, "learning_rate": 3e-3, "step": step}
    bounds = fit(vae.model, vae.guide, ELBO(), x, **settings).history.column("bound")
    mean_image = Normal(x.mean(0), 0.2).log_prob(x).sum(-1).mean()
    assert bounds[0] < bounds[1] < bounds[2]
    assert bounds[2] > mean_image


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("image_shape", [(28, 28), (3, 32, 32)])
def test_random_images_are_learned(name, image_shape):
    pattern = torch.randn(2, torch.Size(image_shape).numel())
    x = torch.randn(64, 2) @ pattern + 0.1 * torch.randn(64, pattern.shape[1])
    vae = small_vae(name, image_shape, lambda net: NormalDecoder(net, 1.0, data_mean=x.mean(0)))
    settings = {"epochs": 5, "batch_size": 32, "learning_rate": 3e-3}
    bounds = fit(vae.model, vae.guide, ELBO(), x, **settings).history.column("bound")
    assert torch.tensor(bounds).isfinite().all()
    assert bounds[-1] > bounds[0]
