"""Rows of mixed columns: densities by column, missing cells, starts, impossible cells."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from significance import mean_of
from torch import nn

from ppl_vae.data import Column
from ppl_vae.evidence import ImportanceSampling
from ppl_vae.guides import DiagonalNormalEncoder, TableInput
from ppl_vae.likelihoods import TableDecoder
from ppl_vae.networks import MLP
from ppl_vae.objectives import IWAE, STL
from ppl_vae.particles import draw_particles
from ppl_vae.priors import StandardNormalPrior
from ppl_vae.training import fit
from ppl_vae.vae import VAE

COLUMNS = (
    Column("town", "categorical", ("a", "b", "c")),
    Column("height", "real"),
    Column("grade", "ordinal", ("low", "mid", "high", "top")),
    Column("flag", "binary", ("no", "yes")),
    Column("income", "positive"),
    Column("visits", "count"),
    Column("weight", "real"),
)
GENERATOR = np.random.default_rng(0)
DATA = torch.tensor(
    np.stack(
        [
            GENERATOR.choice(3, 400, p=[0.5, 0.3, 0.2]),
            GENERATOR.normal(170, 10, 400),
            GENERATOR.choice(4, 400, p=[0.1, 0.4, 0.3, 0.2]),
            GENERATOR.random(400) < 0.3,
            GENERATOR.lognormal(8, 0.5, 400),
            GENERATOR.negative_binomial(3, 0.4, 400),
            GENERATOR.normal(70, 12, 400),
        ],
        1,
    )
)
HOLES = torch.where(torch.rand(400, 7, generator=torch.Generator().manual_seed(1)) < 0.2,
                    torch.nan, DATA)  # fmt: skip


def decoder(spread=0.0, data=DATA):
    network = MLP(2, [6], TableDecoder.num_outputs(7, COLUMNS)).double()
    made = TableDecoder(network, COLUMNS, data).double()
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=spread) if spread else None
    return made


def vae():
    torch.manual_seed(0)
    network = MLP(TableInput.num_inputs(COLUMNS), [8], 4).double()
    encoder = DiagonalNormalEncoder(TableInput(COLUMNS, HOLES, network)).double()
    return VAE(StandardNormalPrior(2).double(), decoder(0.3, HOLES), encoder)


Z = torch.tensor([[0.3, -0.8]], dtype=torch.float64)


def column(row, place, value):
    x = torch.full((7,), torch.nan, dtype=torch.float64)
    x[place] = value
    return row.log_prob(x).item()


@pytest.mark.parametrize("place", [0, 2, 3])
def test_codes_have_probability_1_together(place):
    row = decoder(0.7)(Z)
    codes = range(len(COLUMNS[place].labels))
    assert math.fsum(math.exp(column(row, place, k)) for k in codes) == pytest.approx(1)


def test_counts_have_probability_1_together():
    rows = torch.full((2000, 7), torch.nan, dtype=torch.float64)
    rows[:, 5] = torch.arange(2000)
    assert decoder(0.2)(Z).log_prob(rows).exp().sum().item() == pytest.approx(1)


@pytest.mark.parametrize("place", [1, 4, 6])
def test_densities_of_numbers_integrate_to_1_in_their_own_units(place):
    row = decoder(0.7)(Z)
    if COLUMNS[place].kind == "positive":
        x = torch.logspace(-3, 12, 40_001, dtype=torch.float64)
    else:
        x = torch.linspace(-400, 800, 40_001, dtype=torch.float64)
    rows = torch.full((len(x), 7), torch.nan, dtype=torch.float64)
    rows[:, place] = x
    total = torch.trapezoid(row.log_prob(rows).exp(), x).item()
    assert total == pytest.approx(1, abs=1e-3)


def test_a_row_is_the_sum_of_its_observed_cells():
    row, x = decoder(0.7)(Z), HOLES[:5]
    by_hand = [
        sum(column(row, place, v) for place, v in enumerate(cells) if not math.isnan(v))
        for cells in x.tolist()
    ]
    torch.testing.assert_close(row.log_prob(x), torch.tensor(by_hand).double())
    assert row.log_prob(torch.full((7,), torch.nan).double()).item() == 0


def test_it_starts_at_the_columns_own_distributions():
    made = decoder()
    nn.init.zeros_(made.network.output.weight)
    row = made(Z)
    assert column(row, 0, 0) == pytest.approx(math.log((DATA[:, 0] == 0).double().mean()), abs=1e-6)
    for code in range(4):
        share = (DATA[:, 2] == code).double().mean().item()
        assert math.exp(column(row, 2, code)) == pytest.approx(share, rel=1e-4)
    loc, scale = DATA[:, 1].mean().item(), DATA[:, 1].std(correction=0).item()
    assert column(row, 1, 175.0) == pytest.approx(
        scipy.stats.norm(loc, scale).logpdf(175), abs=1e-6
    )
    logs = DATA[:, 4].log()
    fitted = scipy.stats.lognorm(logs.std(correction=0).item(), scale=math.exp(logs.mean().item()))
    assert column(row, 4, 3000.0) == pytest.approx(fitted.logpdf(3000.0), abs=1e-6)
    torch.testing.assert_close(row.mean[0, 5], DATA[:, 5].mean())


def test_draws_have_the_density_s_moments(significance):
    row = decoder(0.5)(Z)
    torch.manual_seed(1)
    drawn = row.sample((20_000,)).squeeze(1)
    assert bool(row.support.check(drawn).all())
    for place in (1, 5, 6):
        significance.require_equal(mean_of(drawn[:, place]), row.mean[0, place].item())
    for place in (0, 2, 3):
        for code in range(len(COLUMNS[place].labels)):
            expected = math.exp(column(row, place, code))
            significance.require_equal(mean_of(drawn[:, place] == code), expected)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (0, 3.0, "column 'town' is categorical and takes codes of its labels, got 3"),
        (4, -1.0, "column 'income' is positive and takes numbers above 0"),
        (5, 0.5, "column 'visits' is count and takes whole numbers"),
        (6, math.inf, "column 'weight' is real and takes finite numbers"),
    ],
)
def test_an_impossible_cell_is_named(place, value, message):
    x = DATA[:3].clone()
    x[1, place] = value
    with pytest.raises(ValueError, match=message):
        decoder()(Z).log_prob(x)
    assert not bool(decoder()(Z).support.check(x)[1])


@pytest.mark.parametrize("graph", ["path", "split"])
def test_gradients_of_rows_with_holes_are_finite(graph):
    model = vae()
    particles = draw_particles(model.model, model.guide, HOLES[:20], 3, graph=graph)
    particles.log_weight.sum().backward()
    for name, parameter in model.named_parameters():
        if graph == "path" or parameter.grad is not None:
            assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("objective", [IWAE(5), STL(2)], ids=repr)
def test_training_raises_the_bound(objective):
    model = vae()

    def value():
        return ImportanceSampling(200)(model.model, model.guide, HOLES[:100]).mean

    before = value()
    fit(model.model, model.guide, objective, HOLES, epochs=8, batch_size=50, learning_rate=0.01,
        progress=False)  # fmt: skip
    assert value() > before + 0.5


def test_what_the_encoder_sees():
    seen = TableInput(COLUMNS, HOLES, nn.Identity())(HOLES)
    assert seen.shape == (400, TableInput.num_inputs(COLUMNS))
    assert seen.isfinite().all()
    # Standardised numbers first; a missing cell is 0 there.
    assert seen[HOLES[:, 1].isnan(), 0].abs().max() == 0
    assert seen[:, 0][~HOLES[:, 1].isnan()].std(correction=0).item() == pytest.approx(1)


def test_a_table_needs_its_columns():
    with pytest.raises(ValueError, match="needs to know its columns"):
        TableDecoder(MLP(2, [], 3), None, DATA)
    with pytest.raises(ValueError, match="2 columns are named, but rows have 7 cells"):
        TableDecoder(MLP(2, [], 3), COLUMNS[:2], DATA)
