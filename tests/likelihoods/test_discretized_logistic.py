import math

import pytest
import torch
from scipy import stats
from torch import nn

from ppl_vae.likelihoods import (
    DiscretizedLogistic,
    DiscretizedLogisticDecoder,
    DiscretizedLogisticMixtureDecoder,
    feature_log_prob,
)

LOCS = [-3.0, 0.0, 0.3, 0.5, 1.0, 40.0]
SCALES = [1e-4, 1e-2, 0.1, 3.0]


def levels_of(count, dtype=torch.float64):
    return torch.arange(0, count, dtype=dtype) / (count - 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [2, 3, 256])
def test_masses_sum_to_one(count, dtype):
    loc, scale = torch.meshgrid(
        torch.tensor(LOCS, dtype=dtype), torch.tensor(SCALES, dtype=dtype), indexing="ij"
    )
    x = levels_of(count, dtype).view(-1, 1, 1)
    total = DiscretizedLogistic(loc, scale, count).log_prob(x).double().exp().sum(0)
    # Of so many terms, each exp of a rounded sum.
    error = 1e-12 if dtype == torch.float64 else 1e-4
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=error)


@pytest.mark.parametrize("scale", [0.05, 0.3])
@pytest.mark.parametrize("loc", [0.0, 0.37, 1.1])
def test_masses_are_differences_of_the_distribution_function(loc, scale):
    count = 9
    ends = torch.cat(
        [torch.tensor([-math.inf]), (torch.arange(8) + 0.5) / 8, torch.tensor([math.inf])]
    )
    expected = stats.logistic(loc, scale).cdf(ends.double().numpy())
    found = DiscretizedLogistic(
        torch.tensor(loc).double(), torch.tensor(scale).double(), count
    ).log_prob(levels_of(count))
    torch.testing.assert_close(
        found.exp(), torch.from_numpy(expected[1:] - expected[:-1]), rtol=1e-6, atol=1e-9
    )


def test_without_edge_bins_mass_is_lost():
    """The wrong variant: inner bins at the edges too."""
    loc, scale, last = torch.tensor(0.0).double(), torch.tensor(0.1).double(), 255
    x = levels_of(256)
    upper, lower = (torch.sigmoid((x + side * 0.5 / last - loc) / scale) for side in (1, -1))
    assert (upper - lower).sum().item() < 0.51
    assert DiscretizedLogistic(loc, scale).log_prob(x).exp().sum().item() == pytest.approx(1)


def test_far_from_the_location_no_digits_are_lost():
    """A difference of distribution functions is 0 there in single precision."""
    distribution = DiscretizedLogistic(torch.tensor(0.0), torch.tensor(0.01))
    x = torch.tensor(0.8)
    # exp(-80) (1 - exp(-1/2.55)), times the half bin on which the tail begins.
    step = 1 / 255
    exact = -(0.8 - step / 2) / 0.01 + math.log(-math.expm1(-step / 0.01))
    assert distribution.log_prob(x).item() == pytest.approx(exact, rel=1e-5)
    ends = torch.sigmoid((0.8 + torch.tensor([-0.5, 0.5]) * step) / 0.01)
    assert (ends[1] - ends[0]).item() == 0


def test_a_value_belongs_to_its_nearest_level():
    distribution = DiscretizedLogistic(torch.tensor(0.4), torch.tensor(0.1))
    x = torch.arange(256).float() / 255
    shifted = (x.double() + 1e-7).float()
    assert torch.equal(distribution.log_prob(x), distribution.log_prob(shifted))


def test_a_mixture_is_the_mixture_of_its_components():
    components, features = 3, 2
    decoder = DiscretizedLogisticMixtureDecoder(nn.Identity(), components).double()
    z = torch.randn(4, 3 * components * features, dtype=torch.float64)
    logits, loc, free = z.unflatten(-1, (3, components, features)).unbind(1)
    scale = decoder.scale(free.flatten(1)).view_as(loc)
    x = levels_of(256)[torch.randint(0, 256, (4, features))]
    single = DiscretizedLogistic(loc, scale).log_prob(x.unsqueeze(1))
    expected = torch.logsumexp(logits.log_softmax(1) + single, 1)
    torch.testing.assert_close(feature_log_prob(decoder(z), x), expected)


def test_components_start_apart_and_around_the_mean():
    data = levels_of(256, torch.float32)[torch.randint(0, 256, (500, 2))]
    network = nn.Linear(1, 24)
    decoder = DiscretizedLogisticMixtureDecoder(network, 4, data=data)
    locs = network.bias.detach().unflatten(0, (3, 4, 2))[1]
    assert (locs.diff(dim=0) > 0.1).all()
    torch.testing.assert_close(locs.mean(0), data.mean(0))
    assert decoder(torch.zeros(1, 1)).log_prob(data[:1]).isfinite().all()


def test_black_pixels_do_not_make_a_scale_of_zero():
    data = torch.zeros(20, 3)
    decoder = DiscretizedLogisticDecoder(nn.Linear(1, 6), data=data)
    assert decoder.scale.start.min() > 1e-3


@pytest.mark.parametrize("value", [0.5, -1 / 255, 256 / 255, 17.0])
def test_values_between_levels_are_refused(value):
    x = torch.zeros(1, 2)
    x[0, 1] = value
    for decoder, outputs in [
        (DiscretizedLogisticDecoder(nn.Identity()), 4),
        (DiscretizedLogisticMixtureDecoder(nn.Identity(), 2), 12),
    ]:
        with pytest.raises(ValueError, match=r"takes the 256 values .*by 255.*likelihood=.normal"):
            decoder(torch.zeros(1, outputs)).log_prob(x)


def test_all_levels_of_sixteen_bits_are_taken():
    x = (torch.arange(65536).float() / 65535).unsqueeze(-1)
    decoder = DiscretizedLogisticDecoder(nn.Identity(), 65536)
    assert decoder(torch.zeros(1, 2)).log_prob(x).isfinite().all()


@pytest.mark.parametrize("decoder", [DiscretizedLogisticDecoder, DiscretizedLogisticMixtureDecoder])
def test_impossible_arguments(decoder):
    with pytest.raises(ValueError, match="levels must be 2 or more, got 1"):
        decoder(nn.Identity(), levels=1)
    with pytest.raises(ValueError, match="components must be 1 or more, got 0"):
        DiscretizedLogisticMixtureDecoder(nn.Identity(), 0)
