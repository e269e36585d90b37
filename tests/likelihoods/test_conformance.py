"""What every likelihood must do, whichever it is."""

import inspect
import math

import pyro
import pytest
import torch
from scipy import stats

from likelihoods.cases import CASES, FEATURES, masses_between
from ppl_vae import likelihoods as ll
from ppl_vae.guides import DiagonalNormalEncoder
from ppl_vae.networks import MLP
from ppl_vae.objectives import IWAE, DReG
from ppl_vae.priors import StandardNormalPrior
from ppl_vae.testing.distributions._module_case import ModuleCase
from ppl_vae.testing.distributions._use import digits
from ppl_vae.vae import VAE

PARAMETRIZE = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
DISCRETE = pytest.mark.parametrize(
    "case", [case for case in CASES if case.is_discrete], ids=lambda case: case.name
)
CONTINUOUS = pytest.mark.parametrize(
    "case", [case for case in CASES if not case.is_discrete], ids=lambda case: case.name
)
NUM_DRAWS = 20_000


def is_bounded(case):
    x = 1000 * case.data(1)
    return not case.decoder(torch.float32)(case.z(1).float()).support.check(x).all()


@PARAMETRIZE
def test_shapes_under_particles_and_batch(case):
    decoder, x = case.decoder(), case.data(5).double()
    distribution = decoder(case.z(4, 5))
    assert (distribution.batch_shape, distribution.event_shape) == ((4, 5), (FEATURES,))
    assert distribution.log_prob(x).shape == (4, 5)
    assert ll.feature_log_prob(distribution, x).shape == (4, 5, FEATURES)
    assert distribution.mean.shape == distribution.variance.shape == (4, 5, FEATURES)
    assert distribution.sample().shape == (4, 5, FEATURES)
    assert distribution.sample((2,)).shape == (2, 4, 5, FEATURES)
    assert distribution.support.is_discrete == case.is_discrete
    assert distribution.support.check(distribution.sample()).all()


@PARAMETRIZE
def test_says_how_many_outputs_it_needs(case):
    counted = getattr(case.build, "num_outputs", lambda features: features)
    asked = inspect.signature(counted).parameters
    options = {name: value for name, value in case.options.items() if name in asked}
    assert counted(FEATURES, **options) == case.outputs


@PARAMETRIZE
def test_features_are_independent_terms(case):
    distribution, x = case.decoder()(case.z(4, 5)), case.data(5).double()
    terms = ll.feature_log_prob(distribution, x)
    torch.testing.assert_close(distribution.log_prob(x), terms.sum(-1))
    other = x.clone()
    other[:, 0] = case.data(6)[1:, 0]
    torch.testing.assert_close(ll.feature_log_prob(distribution, other)[..., 1:], terms[..., 1:])


@PARAMETRIZE
def test_expands(case):
    distribution, x = case.decoder()(case.z(5)), case.data(5).double()
    big = distribution.expand(torch.Size([3, 5]))
    assert big.batch_shape == (3, 5)
    assert big.sample().shape == (3, 5, FEATURES)
    torch.testing.assert_close(big.log_prob(x), distribution.log_prob(x).expand(3, 5))


@PARAMETRIZE
@torch.no_grad()
def test_mass_mean_and_variance(case):
    """Density or mass adds up to 1, and its moments are those stated."""
    distribution = case.decoder()(case.z())
    mass, first, second = case.moments(distribution)
    torch.testing.assert_close(mass, torch.ones_like(mass), rtol=0, atol=1e-7)
    torch.testing.assert_close(first, distribution.mean, rtol=1e-6, atol=1e-6)
    found = second - first**2
    known = distribution.variance.isfinite()
    torch.testing.assert_close(found[known], distribution.variance[known], rtol=1e-5, atol=1e-6)


@DISCRETE
@torch.no_grad()
def test_draws_follow_the_masses(case, significance):
    distribution = case.decoder()(case.z())
    draws = distribution.sample((NUM_DRAWS,))
    support = case.support.double().unsqueeze(-1).expand(-1, FEATURES)
    masses = ll.feature_log_prob(distribution, support).exp()
    for mass, column in zip(masses.unbind(-1), draws.unbind(-1), strict=True):
        step = case.support[1] - case.support[0]
        counts = torch.bincount((column / step).round().long(), minlength=len(mass))
        require_fit(counts, NUM_DRAWS * mass, significance.split(FEATURES))


@CONTINUOUS
@torch.no_grad()
def test_draws_follow_the_density(case, significance):
    distribution = case.decoder()(case.z())
    pilot, draws = distribution.sample((2_000,)), distribution.sample((NUM_DRAWS,))
    edges = pilot.quantile(torch.linspace(0, 1, 21).double(), dim=0)
    masses = masses_between(distribution, edges)
    # The two tails together.
    masses = torch.cat([masses, 1 - masses.sum(0, keepdim=True)])
    columns = (x.mT.contiguous() for x in (edges, masses, draws))
    for edge, mass, column in zip(*columns, strict=True):
        bins = torch.bucketize(column, edge, right=True) - 1
        counts = torch.bincount(bins % len(mass), minlength=len(mass))
        require_fit(counts, NUM_DRAWS * mass, significance.split(FEATURES))


def require_fit(counts, expected, significance):
    """Pearson's test, bins of few expected draws taken together."""
    order = expected.argsort(descending=True)
    counts, expected = counts[order].double(), expected[order]
    many = int((expected >= 10).sum())
    counts = torch.cat([counts[:many], counts[many:].sum(0, keepdim=True)])
    expected = torch.cat([expected[:many], expected[many:].sum(0, keepdim=True)])
    if expected[-1] < 5:
        counts = torch.cat([counts[:-2], counts[-2:].sum(0, keepdim=True)])
        expected = torch.cat([expected[:-2], expected[-2:].sum(0, keepdim=True)])
    expected = expected * counts.sum() / expected.sum()
    if len(counts) > 1:
        assert stats.chisquare(counts, expected).pvalue > significance.rate


@PARAMETRIZE
def test_gradients_are_those_of_finite_differences(case):
    decoder, x = case.decoder(), case.data(2).double()
    z = case.z(2).requires_grad_()
    parameters = [p for p in decoder.parameters() if p.requires_grad]
    names = [name for name, p in decoder.named_parameters() if p.requires_grad]

    def log_prob(z, *values):
        given = dict(zip(names, values, strict=True))
        return torch.func.functional_call(decoder.eval(), given, (z,)).log_prob(x)

    # Laplace has no derivative at its location, which no datum hits here.
    assert torch.autograd.gradcheck(log_prob, (z, *parameters), fast_mode=True)


@PARAMETRIZE
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extremes_are_finite(case, dtype):
    """Saturated outputs, data at the edges: values and gradients."""
    decoder = case.decoder(dtype).eval()
    blocks = case.outputs // FEATURES
    for size in (50.0, -50.0):
        for block in range(blocks):
            z = torch.zeros(1, case.outputs, dtype=dtype)
            z[:, block * FEATURES : (block + 1) * FEATURES] = size
            z.requires_grad_()
            for edge in case.edges:
                x = torch.full((1, FEATURES), edge, dtype=dtype)
                value = decoder(z).log_prob(x)
                (gradient,) = torch.autograd.grad(value.sum(), z)
                assert value.isfinite().all(), (size, block, edge)
                assert gradient.isfinite().all(), (size, block, edge)
            assert decoder(z).mean.isfinite().all()


@PARAMETRIZE
def test_single_precision_is_double_precision_rounded(case):
    x = case.data(5)
    single = case.decoder(torch.float32)(case.z(5).float())
    double = case.decoder()(case.z(5).float().double())
    assert single.log_prob(x).dtype == single.sample().dtype == torch.float32
    assert single.mean.dtype == single.variance.dtype == torch.float32
    assert double.log_prob(x.double()).dtype == double.sample().dtype == torch.float64
    torch.testing.assert_close(
        single.log_prob(x).double(), double.log_prob(x.double()), rtol=1e-4, atol=1e-4
    )
    torch.testing.assert_close(single.mean.double(), double.mean, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("factor", [1e3, 1e6])
@pytest.mark.parametrize(
    "case", [case for case in CASES if not is_bounded(case)], ids=lambda case: case.name
)
def test_single_precision_keeps_its_digits_in_other_units(case, factor):
    """Of a decoder that has been fitted to such data: at its own draws, and at larger ones."""
    decoder = case.decoder(torch.float32, factor)
    digits(ModuleCase("likelihood", decoder, case.z(4, dtype=torch.float32)), 0)


@PARAMETRIZE
def test_every_tensor_is_on_the_decoders_device(case):
    """A device without numbers refuses to be mixed with another."""
    decoder, z = case.decoder(torch.float32).to("meta"), case.z(4, 5).float().to("meta")
    x = case.data(5).to("meta")
    with pyro.validation_enabled(False):
        distribution = decoder(z)
        results = distribution.log_prob(x), ll.Observed(distribution).log_prob(x), distribution.mean
    assert {result.device.type for result in results} == {"meta"}


@PARAMETRIZE
@torch.no_grad()
def test_draws_have_a_density(case):
    """In single precision too, where they are rounded."""
    decoder = case.decoder(torch.float32)
    for z in (case.z(500).float(), 10 * case.z(500).float()):
        draws = decoder(z).sample()
        assert decoder(z).log_prob(draws).isfinite().all()


@PARAMETRIZE
@torch.no_grad()
def test_starts_at_the_data(case):
    mean = case.decoder()(torch.zeros(case.outputs).double()).mean
    data = case.data().double()
    # A normal or logistic distribution cut off at 0 and 1, a quantile, a count of one more.
    loose = case.name.startswith(("logistic", "categorical"))
    error = 0.25 * data.std(0) if loose else 1e-4 * data.std(0)
    assert ((mean - data.mean(0)).abs() <= error).all()


@PARAMETRIZE
def test_starts_where_cells_are_missing(case):
    data = case.data()
    holes = data.clone()
    holes[::3, 0] = torch.nan
    given = "data_mean" if case.takes_mean else "data"
    kept = holes[~holes[:, 0].isnan()]
    networks = [torch.nn.Linear(2, case.outputs) for _ in range(2)]
    rows = [holes.nanmean(0), kept.mean(0)] if case.takes_mean else [holes, kept]
    for network, start in zip(networks, rows, strict=True):
        case.build(network, **case.options, **{given: start})
    first = slice(0, case.outputs, FEATURES)
    torch.testing.assert_close(networks[0].bias[first], networks[1].bias[first])
    assert networks[0].bias.isfinite().all()
    case.build(networks[0], **case.options, **{given: torch.full_like(rows[0], torch.nan)})
    assert networks[0].bias.isfinite().all()


@PARAMETRIZE
@pytest.mark.parametrize("objective", [IWAE(3), DReG(3)])
def test_every_parameter_is_trained(case, objective):
    decoder = case.decoder(torch.float32)
    decoder.network = torch.nn.Sequential(MLP(2, [4], case.outputs), decoder.network)
    encoder = DiagonalNormalEncoder(MLP(FEATURES, [4], 4))
    vae = VAE(StandardNormalPrior(2), decoder, encoder)
    assert math.isfinite(objective.loss_and_grads(vae.model, vae.guide, case.data(6)))
    for name, parameter in vae.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert (parameter.grad != 0).any(), name


@PARAMETRIZE
def test_a_network_of_another_size_is_refused(case):
    decoder = case.decoder()
    if case.outputs == FEATURES:
        return
    decoder.network = torch.nn.Linear(case.outputs, 1).double()
    with pytest.raises(ValueError, match=r"network has 1 outputs, expected \d+ for each feature"):
        decoder(case.z(2))
