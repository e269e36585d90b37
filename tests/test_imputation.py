"""Imputation: exact on the linear-Gaussian model, better than means on real tables."""

import pytest
import torch
from significance import Estimate, mean_of, variance_of
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine

from ppl_vae.data import Column
from ppl_vae.guides import DiagonalNormalEncoder, TableInput
from ppl_vae.imputation import impute
from ppl_vae.likelihoods import ObservedDecoder, TableDecoder
from ppl_vae.linear_gaussian import LinearGaussian
from ppl_vae.networks import MLP
from ppl_vae.objectives import IWAE
from ppl_vae.priors import StandardNormalPrior
from ppl_vae.training import fit
from ppl_vae.vae import VAE

MODEL = LinearGaussian.random(4, 2, 0.5, seed=3)


class Decoder(torch.nn.Module):
    def forward(self, z):
        return MODEL.decoder(z)


class FromPrior(torch.nn.Module):
    """q(z) = p(z): a proposal that sees nothing, good enough for two latents."""

    def forward(self, x):
        return MODEL.prior().expand([len(x)])


def test_draws_and_means_are_the_conditional_normal_s(significance):
    x = MODEL.simulate(1, seed=5)
    x[0, [1, 3]] = torch.nan
    vae = VAE(MODEL.prior, ObservedDecoder(Decoder()), FromPrior())
    torch.manual_seed(0)
    many = x.expand(400, -1)
    found = impute(vae, many, num_draws=1, num_particles=4000)
    weight, bias = MODEL.weight.detach(), MODEL.bias.detach()
    covariance = weight @ weight.T + MODEL.noise_scale**2 * torch.eye(4)
    seen, gone = [0, 2], [1, 3]
    gain = covariance[gone][:, seen] @ covariance[seen][:, seen].inverse()
    mean = bias[gone] + gain @ (x[0, seen] - bias[seen])
    spread = covariance[gone][:, gone] - gain @ covariance[seen][:, gone]
    for place, column in enumerate(gone):
        # Self-normalised weights are biased by about their variance over K: 1/4000 here.
        significance.require_equal(mean_of(found.draws[0, :, column]), mean[place].item())
        significance.require_equal(
            variance_of(found.draws[0, :, column]), spread[place, place].item()
        )
        close = Estimate(found.point[:, column].mean().item(), 0.01)
        significance.require_equal(close, mean[place].item())
    assert torch.equal(found.draws[0][:, seen], many[:, seen])
    assert found.missing.sum().item() == 800


@pytest.mark.parametrize(
    "load", [load_wine, load_breast_cancer, load_diabetes], ids=["wine", "breast", "diabetes"]
)
def test_better_than_column_means_by_its_error(load, significance):
    """Cells removed at random from real tables; squared errors in units of the column's spread."""
    torch.manual_seed(0)
    full = torch.tensor(load().data, dtype=torch.float32)
    full = full[torch.randperm(len(full))[:300]]
    columns = [Column(f"x{i}", "real") for i in range(full.shape[1])]
    holes = torch.where(torch.rand(full.shape) < 0.2, torch.nan, full)
    decoder = MLP(4, [32], TableDecoder.num_outputs(len(columns), columns))
    network = MLP(TableInput.num_inputs(columns), [32], 8)
    encoder = DiagonalNormalEncoder(TableInput(columns, holes, network))
    vae = VAE(StandardNormalPrior(4), TableDecoder(decoder, columns, holes), encoder)
    fit(
        vae.model, vae.guide, IWAE(10), holes, epochs=25, batch_size=50, learning_rate=1e-2,
        progress=False,
    )  # fmt: skip
    found = impute(vae.eval(), holes, num_draws=2, num_particles=200)
    spread = holes.sub(holes.nanmean(0)).square().nanmean(0).sqrt()

    def errors(filled):
        return (((filled - full) / spread).square() * found.missing).sum(1)

    gain = errors(holes.nanmean(0).expand_as(full)) - errors(found.point)
    assert mean_of(gain).value > 3 * mean_of(gain).error
    assert found.draws.isfinite().all()


def test_codes_are_filled_with_codes():
    columns = (Column("kind", "categorical", ("a", "b", "c")), Column("size", "real"))
    torch.manual_seed(0)
    kind = torch.randint(3, (300,)).float()
    data = torch.stack([kind, 3 * kind + 0.3 * torch.randn(300)], 1)
    holes = torch.where(torch.rand(300, 2) < 0.2, torch.nan, data)
    network = MLP(TableInput.num_inputs(columns), [16], 4)
    vae = VAE(
        StandardNormalPrior(2),
        TableDecoder(MLP(2, [16], TableDecoder.num_outputs(2, columns)), columns, holes),
        DiagonalNormalEncoder(TableInput(columns, holes, network)),
    )
    fit(
        vae.model, vae.guide, IWAE(10), holes, epochs=30, batch_size=50, learning_rate=2e-2,
        progress=False,
    )  # fmt: skip
    found = impute(vae, holes, columns=columns, num_particles=300)
    alone = holes[:, 0].isnan() & ~holes[:, 1].isnan()
    assert set(found.point[:, 0].unique().tolist()) <= {0.0, 1.0, 2.0}
    # The size tells the kind: far better than the third that guessing gets.
    assert (found.point[alone, 0] == data[alone, 0]).double().mean() > 0.8


def test_numbers_that_make_no_sense():
    vae = VAE(MODEL.prior, ObservedDecoder(Decoder()), FromPrior())
    with pytest.raises(ValueError, match="num_draws >= 1"):
        impute(vae, MODEL.simulate(2), num_draws=0)
    with pytest.raises(ValueError, match="holds no data"):
        impute(vae, MODEL.simulate(2)[:0])
