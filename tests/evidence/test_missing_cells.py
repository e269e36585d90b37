"""NaN in x: a missing cell to programs that take it, and else named as what is wrong."""

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from torch import nn

from ppl_vae.evidence import (
    AnnealedImportanceSampling,
    AutomaticSampling,
    ImportanceSampling,
    Quadrature,
)
from ppl_vae.guides import DiagonalNormalEncoder
from ppl_vae.likelihoods import BernoulliDecoder, NormalDecoder, ObservedDecoder
from ppl_vae.networks import MLP, ObservedInput
from ppl_vae.objectives import ELBO
from ppl_vae.particles import NonFiniteDensityError
from ppl_vae.priors import StandardNormalPrior
from ppl_vae.training import fit
from ppl_vae.vae import VAE

GUIDE = "the guide does not take missing cells: give the guide's network ObservedInput"
LIKELIHOOD = "the likelihood does not take missing cells: put the decoder into ObservedDecoder"
BOTH = (
    "the guide and the likelihood do not take missing cells: give the guide's network "
    "ObservedInput and put the decoder into ObservedDecoder"
)
RUN = r" \(of a run, allow_missing=True\), fill the cells in, or leave the rows out\.$"
X = torch.randn(30, 3, generator=torch.Generator().manual_seed(0))
X[[7, 29], 1] = torch.nan


def vae(*, guide: bool, likelihood: bool, decoder=None) -> VAE:
    """A model whose guide and likelihood take missing cells, or do not."""
    torch.manual_seed(0)
    decoder = decoder or NormalDecoder(nn.Linear(2, 3), 0.5)
    body = MLP(ObservedInput.num_inputs(3) if guide else 3, (4,), 4)
    encoder = DiagonalNormalEncoder(ObservedInput(body) if guide else body)
    return VAE(StandardNormalPrior(2), ObservedDecoder(decoder) if likelihood else decoder, encoder)


CASES = [
    pytest.param({"guide": False, "likelihood": True}, GUIDE, id="guide"),
    pytest.param({"guide": True, "likelihood": False}, LIKELIHOOD, id="likelihood"),
    pytest.param({"guide": False, "likelihood": False}, BOTH, id="both"),
]


@pytest.mark.parametrize("estimator", [ImportanceSampling(20), AutomaticSampling(), Quadrature()])
@pytest.mark.parametrize(("takes", "message"), CASES)
def test_an_estimate_names_who_does_not_take_them(takes, message, estimator):
    model = vae(**takes)
    said = f"^x has NaN in 2 rows, the first in row 7, and {message}{RUN}"
    with pytest.raises(ValueError, match=said):
        estimator(model.model, model.guide, X)


@pytest.mark.parametrize("first", [0, 28])
def test_in_a_later_chunk_and_in_the_first_row(first):
    """Two rows at once: the programs run on chunks before the one with the missing cell."""
    model, x = vae(guide=False, likelihood=True), X[:7].repeat(5, 1)
    x[first, 1] = torch.nan
    with pytest.raises(ValueError, match=f"in 1 row, the first in row {first}, and {GUIDE}"):
        ImportanceSampling(20, rows=40)(model.model, model.guide, x)


def test_values_beside_the_missing_one_are_those_that_the_likelihood_takes():
    """Of zeros and ones: another value in its place would be refused as well."""
    bits = (X > 0).float().masked_fill(X.isnan(), torch.nan)
    model = vae(guide=True, likelihood=False, decoder=BernoulliDecoder(nn.Linear(2, 3)))
    with pytest.raises(ValueError, match=LIKELIHOOD):
        ImportanceSampling(20)(model.model, model.guide, bits)


def test_training_names_the_guide_before_the_first_update():
    model = vae(guide=False, likelihood=True)
    for name, rows in (("train", {}), ("valid", {"valid": X})):
        train = X[:7] if rows else X
        with pytest.raises(ValueError, match=f"^{name} has NaN in 2 rows, .*{GUIDE}{RUN}"):
            fit(model.model, model.guide, ELBO(), train, epochs=1, progress=False, **rows)
    plain = vae(guide=False, likelihood=False)
    with pytest.raises(ValueError, match=r"ObservedDecoder \(of a run, allow_missing=True\)"):
        fit(plain.model, plain.guide, ELBO(), X, epochs=1, progress=False)


def test_with_what_is_advised_the_number_is_right():
    """Log p of the observed cells of a linear-Gaussian model, in closed form."""
    model = vae(guide=True, likelihood=True)
    found = Quadrature()(model.model, model.guide, X).log_prob
    network = model.decoder.decoder.network
    weight, bias = (v.detach().double().numpy() for v in (network.weight, network.bias))
    for row, value in zip(X.double().numpy(), found, strict=True):
        seen = ~np.isnan(row)
        covariance = weight[seen] @ weight[seen].T + 0.25 * np.eye(seen.sum())
        exact = multivariate_normal.logpdf(row[seen], bias[seen], covariance)
        assert value.item() == pytest.approx(exact, abs=2e-3)
    fit(model.model, model.guide, ELBO(), X, epochs=1, progress=False)


def test_a_guide_that_is_not_needed_may_not_take_them():
    model = vae(guide=False, likelihood=True)
    annealing = AnnealedImportanceSampling(num_temperatures=5, num_chains=2)
    assert annealing(model.model, model.guide, X).log_prob.isfinite().all()


def test_diverged_parameters_are_not_taken_for_missing_cells():
    model = vae(guide=True, likelihood=True)
    with torch.no_grad():
        next(model.encoder.parameters()).fill_(torch.nan)
    with pytest.raises(NonFiniteDensityError, match="look for diverged parameters"):
        ImportanceSampling(20)(model.model, model.guide, X)


def test_complex_numbers_are_refused_by_what_to_give():
    model = vae(guide=False, likelihood=False)
    x = torch.complex(X[:4], X[:4])
    said = r"is complex, .*: give real and imaginary parts as columns, torch\.view_as_real"
    with pytest.raises(ValueError, match=f"^x {said}"):
        ImportanceSampling(20)(model.model, model.guide, x)
    with pytest.raises(ValueError, match=f"^train {said}"):
        fit(model.model, model.guide, ELBO(), x.numpy(), epochs=1, progress=False)
    # The columns that are advised.
    assert torch.view_as_real(x).flatten(1)[0, ::2].tolist() == X[0].tolist()
