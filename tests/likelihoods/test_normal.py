import math

import pyro.distributions as dist
import pytest
import torch
from torch import nn

from ppl_vae.likelihoods import NormalDecoder
from ppl_vae.networks import MLP


@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("learn_scale", [True, False])
def test_normal_decoder(scale, learn_scale):
    network = MLP(2, [5], 4)
    decoder = NormalDecoder(network, scale, learn_scale=learn_scale)
    z, x = torch.randn(3, 6, 2), torch.randn(6, 4)
    expected = dist.Normal(network(z), scale).log_prob(x).sum(-1)
    torch.testing.assert_close(decoder(z).log_prob(x), expected)
    assert (decoder(z).batch_shape, decoder(z).event_shape) == ((3, 6), (4,))
    trained = {name for name, p in decoder.named_parameters() if p.requires_grad}
    assert ("scale.free" in trained) == learn_scale


def test_the_learned_scale_finds_its_maximum():
    decoder = NormalDecoder(MLP(2, [], 4), 3.0, learn_scale=True).double()
    z, x = torch.randn(50, 2).double(), torch.randn(50, 4).double()
    best = (x - decoder.network(z)).square().mean().sqrt().detach()
    with torch.no_grad():
        decoder.scale.start.copy_(best)
    decoder(z).log_prob(x).sum().backward()
    # Of 200 terms that cancel, each about 1.
    assert abs(decoder.scale.free.grad.item()) < 200 * torch.finfo(torch.float64).eps * 50


def test_normal_decoder_starts_at_the_data_mean():
    network, mean = MLP(2, [5], 3), torch.tensor([-5.0, 0.0, 7.0])
    decoder = NormalDecoder(network, data_mean=mean)
    nn.init.zeros_(network.output.weight)
    torch.testing.assert_close(decoder(torch.randn(6, 2)).mean[1], mean)


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, math.inf])
def test_normal_decoder_refuses_an_impossible_scale(scale):
    with pytest.raises(ValueError, match="scale must be positive and finite"):
        NormalDecoder(MLP(2, [], 3), scale)
