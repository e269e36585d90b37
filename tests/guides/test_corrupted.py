"""Encoders whose input is corrupted in training, and codes of which few are active."""

import pytest
import torch
from significance import Estimate, mean_of, variance_of

from ppl_vae.guides import (
    CORRUPTIONS,
    CorruptedInput,
    DeltaEncoder,
    GaussianNoise,
    MaskNoise,
    SparseEncoder,
)
from ppl_vae.likelihoods import NormalDecoder
from ppl_vae.linear_gaussian import LinearGaussian
from ppl_vae.networks import MLP
from ppl_vae.objectives import ELBO, IWAE, Reconstruction
from ppl_vae.priors import StandardNormalPrior
from ppl_vae.vae import VAE

MODEL = LinearGaussian.random(4, 2, 1.0, seed=3)
X = MODEL.simulate(5)


def test_the_share_of_masked_cells(significance):
    masked = MaskNoise(0.3)(torch.ones(300, 200))
    assert set(masked.unique().tolist()) == {0.0, 1.0}
    significance.require_equal(mean_of(1 - masked), 0.3)


def test_cells_and_data_are_masked_independently(significance):
    significance = significance.split(2)
    masked = 1 - MaskNoise(0.5)(torch.ones(40_000, 2))
    both = masked.prod(-1)
    significance.require_equal(mean_of(both), 0.25)
    significance.require_equal(mean_of(masked[::2, 0] * masked[1::2, 0]), 0.25)


def test_the_noise_of_gauss(significance):
    significance = significance.split(2)
    noise = GaussianNoise(0.7)(torch.full((300, 200), 5.0)) - 5.0
    significance.require_equal(mean_of(noise), 0.0)
    significance.require_equal(variance_of(noise), 0.49)


def test_a_missing_cell_is_masked_as_any_other():
    masked = MaskNoise(0.5)(torch.full((1000,), torch.nan))
    assert 0 < int(masked.isnan().sum()) < 1000
    assert bool((masked.nan_to_num(nan=7.0) != 1.0).all())
    assert set(masked[~masked.isnan()].tolist()) == {0.0}


def test_names_and_wrong_values():
    assert CORRUPTIONS.parse("mask:0.2")().fraction == 0.2
    assert CORRUPTIONS.parse("gauss:sd=2")().sd == 2.0
    for text, message in (("mask:1", "between 0 and 1"), ("gauss:0", "sd must be positive")):
        with pytest.raises(ValueError, match=message):
            CORRUPTIONS.parse(text)()


def test_the_clean_input_in_evaluation_and_a_corrupted_one_in_training():
    inner = DeltaEncoder(MLP(4, [3], 2).double())
    guide = CorruptedInput(inner, GaussianNoise(1.0))
    guide.eval()
    assert torch.equal(guide(X).v, inner(X).v)
    guide.train()
    assert not torch.equal(guide(X).v, inner(X).v)


def test_the_target_is_the_clean_datum():
    decoder = NormalDecoder(MLP(2, [3], 4).double(), 1.0)
    inner = DeltaEncoder(MLP(4, [3], 2).double())
    vae = VAE(StandardNormalPrior(2), decoder, CorruptedInput(inner, MaskNoise(0.5))).double()
    vae.train()
    torch.manual_seed(5)
    particles = Reconstruction().draw(vae.model, vae.guide, X)
    expected = decoder(particles.latents["z"]).log_prob(X)
    torch.testing.assert_close(particles.log_likelihood, expected)
    assert not torch.equal(particles.latents["z"][0], inner(X).v)


@pytest.mark.parametrize("objective", [ELBO(1), IWAE(20)], ids=repr)
def test_the_denoising_bound_is_one(objective, significance):
    """Of the exact posterior of a corrupted datum: below log p(x), and exact for no corruption."""
    encoder = MODEL.posterior
    vae = VAE(MODEL.prior, MODEL.decoder, CorruptedInput(encoder, GaussianNoise(0.5)))
    vae.train()
    x = X[:1].expand(4000, -1)
    bound = objective.bound(objective.draw(vae.model, vae.guide, x)).detach()
    found, exact = mean_of(bound), MODEL.log_evidence(X[:1]).item()
    assert found.value < exact + significance.limit * found.error
    # E over noise of the KL between normals of one covariance C whose means differ by A e:
    # 0.5 E (A e)' C^-1 (A e) = 0.5 sd^2 tr(A' C^-1 A).
    if objective.num_particles == 1:
        assert found.value + significance.limit * found.error < exact
        matrix = torch.autograd.functional.jacobian(lambda v: encoder(v[None]).mean[0], X[0])
        precision = encoder(X[:1]).precision_matrix[0]
        gap = 0.5 * 0.25 * torch.trace(matrix.mT @ precision @ matrix).item()
        significance.require_equal(Estimate(exact - found.value, found.error), gap)
    vae.eval()
    torch.testing.assert_close(
        objective.bound(objective.draw(vae.model, vae.guide, X)), MODEL.log_evidence(X)
    )


def test_the_largest_codes_are_kept():
    torch.manual_seed(0)
    network = MLP(4, [3], 6).double()
    codes = SparseEncoder(network, "none", keep=2)(X).v
    expected = network(X)
    assert ((codes != 0).sum(-1) == 2).all()
    for row, full in zip(codes, expected, strict=True):
        assert set(row[row != 0].tolist()) == set(full.topk(2).values.tolist())
    # Equal codes are no reason to keep more.
    flat = SparseEncoder(torch.nn.Identity(), "relu", keep=2)(torch.ones(3, 5)).v
    assert ((flat != 0).sum(-1) == 2).all()


def test_activations_of_codes():
    x = torch.tensor([[-1.0, 2.0]])
    for name, expected in (("relu", [[0.0, 2.0]]), ("sigmoid", x.sigmoid()), ("none", x)):
        assert torch.equal(SparseEncoder(torch.nn.Identity(), name)(x).v, torch.as_tensor(expected))
    with pytest.raises(ValueError, match="keep must be 1 or more"):
        SparseEncoder(torch.nn.Identity(), keep=0)
