"""Mixtures: the density summed over dimensions first, draws by the weights, cheap and exact."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.stats import chi2
from significance import Estimate, mean_of
from torch.distributions import biject_to

from ppl_vae.distributions import Mixture
from ppl_vae.distributions import _mixture as mixture
from ppl_vae.evidence import AnnealedImportanceSampling, ImportanceSampling
from ppl_vae.linear_gaussian import LinearGaussian
from ppl_vae.vae import VAE

C = 4
LOGITS = torch.tensor([0.3, -1.0, 0.8, -0.2], dtype=torch.float64)


def parameters(latent=2, seed=0, count=C):
    generator = torch.Generator().manual_seed(seed)
    loc = 2 * torch.randn(count, latent, dtype=torch.float64, generator=generator)
    scale = 0.3 + torch.rand(count, latent, dtype=torch.float64, generator=generator)
    return loc, scale


def roots(scale):
    return scale.diag_embed() + 0.4 * torch.ones_like(scale.diag_embed()).tril(-1)


def diagonal(loc, scale):
    return dist.Normal(loc, scale).to_event(1)


def full(loc, scale):
    return dist.MultivariateNormal(loc, scale_tril=roots(scale), validate_args=False)


def heavy(loc, scale):
    return dist.StudentT(5.0, loc, scale, validate_args=False).to_event(1)


KINDS = {"diagonal": diagonal, "full": full, "heavy": heavy}


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]


def reference(parts, logits=LOGITS):
    return dist.MixtureSameFamily(dist.Categorical(logits=logits), parts)


class PerDimension(dist.TorchDistribution):
    """Wrong: the components are mixed in each dimension by itself."""

    arg_constraints = {}  # noqa: RUF012
    support = dist.constraints.real_vector

    def __init__(self, loc, scale, batch_shape=()):
        self.loc, self.scale = loc, scale
        super().__init__(batch_shape, loc.shape[-1:], validate_args=False)

    def expand(self, batch_shape, _instance=None):
        return PerDimension(self.loc, self.scale, torch.Size(batch_shape))

    def log_prob(self, value):
        each = dist.Normal(self.loc, self.scale).log_prob(value.unsqueeze(-2))
        mixing = LOGITS.log_softmax(0).unsqueeze(-1)
        return torch.logsumexp(mixing + each, -2).sum(-1)

    def sample(self, sample_shape=()):
        right = Mixture(diagonal(self.loc, self.scale), LOGITS)
        return right.expand(self.batch_shape).sample(sample_shape)


class FirstComponents(dist.TorchDistribution):
    """Wrong: draw number i is of component i."""

    def __init__(self, right):
        self.right = right
        super().__init__((), right.event_shape, validate_args=False)

    def sample(self, sample_shape=()):
        (count,) = sample_shape
        index = torch.arange(count) % len(self.right.log_weights)
        return mixture._draw_each(self.right.components, index)


class TestDensity:
    def test_is_that_of_torchs_mixture(self, kind):
        parts, z = kind(*parameters()), 3 * torch.randn(7, 5, 2, dtype=torch.float64)
        torch.testing.assert_close(Mixture(parts, LOGITS).log_prob(z), reference(parts).log_prob(z))

    def test_gradients_are_those_of_torchs_mixture(self, kind):
        found = []
        for make in (Mixture, reference):
            leaves = [v.clone().requires_grad_() for v in (*parameters(), LOGITS)]
            z = torch.linspace(-3, 3, 20, dtype=torch.float64).reshape(10, 2).requires_grad_()
            make(kind(*leaves[:2]), leaves[2]).log_prob(z).square().sum().backward()
            found.append([leaf.grad for leaf in (*leaves, z)])
        torch.testing.assert_close(*found)

    def test_second_derivatives(self):
        loc, scale = (v.clone().requires_grad_() for v in parameters())
        logits = LOGITS.clone().requires_grad_()
        z = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)

        def log_prob(*leaves):
            return Mixture(diagonal(*leaves[:2]), leaves[2]).log_prob(leaves[3])

        assert torch.autograd.gradgradcheck(log_prob, (loc, scale, logits, z))

    @pytest.mark.parametrize("latent", [1, 2])
    def test_integrates_to_one(self, kind, latent):
        axis = torch.linspace(-12, 12, 1201, dtype=torch.float64)
        z = torch.cartesian_prod(*[axis] * latent).reshape(-1, latent)
        density = Mixture(kind(*parameters(latent)), LOGITS).log_prob(z).exp()
        total = density.sum().item() * 0.02**latent
        # A t with 5 degrees of freedom has about 1e-4 of its mass beyond the grid.
        assert total == pytest.approx(1, abs=1e-3 if kind is heavy else 1e-10)

    def test_a_component_of_weight_0_says_nothing(self):
        loc, scale = parameters()
        logits = LOGITS.clone()
        logits[1] = -math.inf
        keep, z = [0, 2, 3], torch.randn(6, 2, dtype=torch.float64)
        found = Mixture(diagonal(loc, scale), logits).log_prob(z)
        expected = Mixture(diagonal(loc[keep], scale[keep]), logits[keep]).log_prob(z)
        torch.testing.assert_close(found, expected)

    def test_weights_of_their_own_for_each_of_the_batch(self, kind):
        parts, z = kind(*parameters()), torch.randn(6, 3, 2, dtype=torch.float64)
        logits = torch.randn(3, C, dtype=torch.float64)
        p = Mixture(parts, logits)
        assert (p.batch_shape, p.event_shape) == ((3,), (2,))
        for i in range(3):
            expected = Mixture(parts, logits[i]).log_prob(z[:, i])
            torch.testing.assert_close(p.log_prob(z)[:, i], expected)

    def test_moments(self, kind):
        parts = kind(*parameters())
        p, expected = Mixture(parts, LOGITS), reference(parts)
        torch.testing.assert_close(p.mean, expected.mean)
        torch.testing.assert_close(p.variance, expected.variance)
        assert p.expand((3, 5)).mean.shape == (3, 5, 2)


class TestPrecision:
    """A product of matrices, whose terms cancel: in doubles, and so nearer than sums in singles."""

    @staticmethod
    def errors(scale, shift=0.0):
        """Largest error in nats at draws, of ours and of torch's, both in single precision."""
        generator = torch.Generator().manual_seed(1)
        loc = shift + 2 * torch.randn(60, 40, generator=generator)
        parts = diagonal(loc, scale * (0.5 + torch.rand(60, 40, generator=generator)))
        p = Mixture(parts, torch.zeros(60))
        z = p.sample((200,))
        doubled = diagonal(loc.double(), parts.base_dist.scale.double())
        exact = reference(doubled, torch.zeros(60).double()).log_prob(z.double())
        found, sums = p.log_prob(z), reference(parts, torch.zeros(60)).log_prob(z)
        assert found.dtype == torch.float32
        return tuple((value.double() - exact).abs().max().item() for value in (found, sums))

    @pytest.mark.parametrize("scale", [1.0, 0.1, 0.01, 1e-3])
    @pytest.mark.parametrize("shift", [0.0, 100.0])
    def test_as_near_as_the_result_can_be_written(self, scale, shift):
        ours, theirs = self.errors(scale, shift)
        # Log-densities here are below 512, neighbouring single-precision numbers 2^-15 apart.
        assert ours <= 2**-15
        assert ours <= theirs

    @pytest.mark.parametrize(("scale", "off"), [(0.1, 1e-3), (0.01, 0.1)])
    def test_of_the_test_in_single_precision_it_would_be_off(self, scale, off, monkeypatch):
        monkeypatch.setattr(mixture, "in_double", lambda value: value)
        assert self.errors(scale)[0] > off


class TestParts:
    """Many points under many components are worked through in parts."""

    @pytest.mark.parametrize("elements", [1, 7, 24, 10**9])
    def test_do_not_change_values_or_gradients(self, kind, elements, monkeypatch):
        monkeypatch.setattr(mixture, "_ELEMENTS", elements)
        points = torch.randn(6, 3, 2, dtype=torch.float64)
        found = []
        for make in (Mixture, reference):
            leaves = [v.clone().requires_grad_() for v in (*parameters(), LOGITS, points)]
            value = make(kind(*leaves[:2]), leaves[2]).log_prob(leaves[3])
            with torch.no_grad():
                without = make(kind(*leaves[:2]), leaves[2]).log_prob(leaves[3])
            value.square().sum().backward()
            found.append([value, without, *[leaf.grad for leaf in leaves]])
        torch.testing.assert_close(*found)

    def test_keep_memory_down(self, monkeypatch):
        """What a gradient keeps does not grow with points times components."""
        kept = []
        monkeypatch.setattr(mixture, "_ELEMENTS", 1000)
        for points in (200, 2000):
            saved = [0]

            def pack(value, saved=saved):
                saved[0] += value.numel()
                return value

            loc, scale = (v.requires_grad_() for v in parameters(count=100))
            z = torch.randn(points, 2, dtype=torch.float64)
            with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
                Mixture(diagonal(loc, scale), torch.zeros(100).double()).log_prob(z)
            kept.append(saved[0])
        assert kept[1] - kept[0] < 1800 * 100 / 10


class TestDraws:
    def test_follow_the_density(self, kind, significance):
        """Means of functions of draws, against sums over a grid."""
        p = Mixture(kind(*parameters()), LOGITS)
        axis = torch.linspace(-30, 30, 1501, dtype=torch.float64)
        z = torch.cartesian_prod(axis, axis)
        mass = p.log_prob(z).exp() * 0.04**2
        functions = [
            lambda v: torch.sin(v[..., 0] + 2 * v[..., 1]),
            lambda v: torch.tanh(v[..., 0]) * torch.cos(v[..., 1]),
            lambda v: torch.tanh(v[..., 1]),
        ]
        draws = p.sample((20_000,))
        for f in functions:
            found = mean_of(f(draws))
            significance.split(3).require_equal(found, (f(z) * mass).sum().item())

    @staticmethod
    def frequencies(p, count):
        """How many draws are nearest to each component's mean."""
        distance = torch.cdist(p.sample((count,)), p.components.mean)
        return torch.bincount(distance.argmin(1), minlength=len(p.log_weights))

    def require_by_weight(self, p, drawn, significance):
        """Pearson's chi-square test, at this test's share of the suite's false-alarm rate."""
        weights = self.weights(p)
        found = self.frequencies(drawn, 20_000)
        statistic = ((found - 20_000 * weights).square() / (20_000 * weights)).sum().item()
        assert statistic < chi2.isf(significance.rate, len(weights) - 1)

    @staticmethod
    def weights(p):
        return p.log_weights.exp()

    @staticmethod
    def apart(kind, logits=LOGITS):
        """Components that no draw can be mistaken about."""
        loc = 1000 * torch.arange(len(logits), dtype=torch.float64).unsqueeze(-1)
        return Mixture(kind(loc.expand(-1, 2), torch.ones(len(logits), 2).double()), logits)

    def test_take_components_by_their_weights(self, kind, significance):
        p = self.apart(kind)
        self.require_by_weight(p, p, significance)

    def test_of_the_test_of_weights(self, significance):
        p = self.apart(diagonal)
        wrong = FirstComponents(p)
        wrong.components, wrong.log_weights = p.components, p.log_weights
        with pytest.raises(AssertionError):
            self.require_by_weight(p, wrong, significance)

    def test_of_a_batch_follow_the_weights_of_each(self, significance):
        p = self.apart(diagonal)
        logits = torch.stack([LOGITS, -2 * LOGITS])
        both = Mixture(p.components, logits).expand((3, 2)).sample((8000,))
        assert both.shape == (8000, 3, 2, 2)
        index = (both[..., 0] / 1000).round().long()
        for i in range(2):
            for c in range(C):
                probability = logits[i].softmax(0)[c].item()
                count = int((index[:, :, i] == c).sum())
                significance.split(8).require_count(count, 24_000, probability)

    def test_are_all_different_and_of_the_component_asked_for(self, kind):
        loc = 100 * torch.arange(5, dtype=torch.float64).unsqueeze(-1).expand(-1, 2)
        parts = kind(loc, torch.full((5, 2), 0.1).double())
        index = torch.tensor([3, 0, 3, 3, 1, 0, 3])
        draws = mixture._draw_each(parts, index)
        assert torch.equal((draws[:, 0] / 100).round().long(), index)
        assert len(draws[:, 0].unique()) == len(index)

    def test_shapes(self, kind):
        p = Mixture(kind(*parameters()), LOGITS)
        assert p.sample().shape == (2,)
        assert p.sample((3,)).shape == (3, 2)
        assert p.expand((5,)).sample((3,)).shape == (3, 5, 2)
        assert p.expand((4, 5)).rsample().shape == (4, 5, 2)
        assert not p.sample().requires_grad


class TestPathwiseGradients:
    def test_are_those_of_the_expectation(self, significance):
        """``E sin z = sum_c pi_c sin(m_c) exp(-s_c^2 / 2)``, by blocks of draws."""
        loc, scale = (v.expand(200, C, 1).clone().requires_grad_() for v in parameters(1))
        values = []
        for i in range(200):
            p = Mixture(diagonal(loc[i], scale[i]), LOGITS)
            assert p.has_rsample
            values.append(p.rsample((200,)).sin().mean())
        torch.stack(values).sum().backward()
        m, s, pi = loc[0].detach(), scale[0].detach(), LOGITS.softmax(0).unsqueeze(-1)
        shrunk = pi * (-s.square() / 2).exp()
        expected = {loc: shrunk * m.cos(), scale: -shrunk * s * m.sin()}
        for leaf, exact in expected.items():
            for c in range(C):
                found = mean_of(leaf.grad[:, c])
                significance.split(2 * C).require_equal(found, exact[c].item())

    def test_full_covariances(self):
        loc, scale = (v.clone().requires_grad_() for v in parameters())
        Mixture(full(loc, scale), LOGITS).rsample((50,)).square().sum().backward()
        assert loc.grad.abs().min() > 0
        assert scale.grad.abs().min() > 0

    def test_none_is_claimed_for_weights_that_are_learned(self):
        p = Mixture(diagonal(*parameters()), LOGITS.clone().requires_grad_())
        assert not p.has_rsample
        assert not p.expand((3,)).has_rsample
        with pytest.raises(NotImplementedError, match="no pathwise gradient"):
            p.rsample()
        assert p.sample((3,)).shape == (3, 2)

    def test_none_of_discrete_components(self):
        parts = dist.Bernoulli(torch.full((C, 3), 0.3)).to_event(1)
        p = Mixture(parts, LOGITS.float())
        assert not p.has_rsample
        assert p.support.is_discrete
        assert set(p.sample((10,)).unique().tolist()) <= {0.0, 1.0}


class TestContract:
    def test_expand(self, kind):
        p, z = Mixture(kind(*parameters()), LOGITS), torch.randn(3, 5, 2, dtype=torch.float64)
        for shape in (torch.Size((3, 5)), [3, 5], (3, 5)):
            big = p.expand(shape)
            assert (big.batch_shape, big.event_shape) == ((3, 5), (2,))
            torch.testing.assert_close(big.log_prob(z), p.log_prob(z))
            assert big.log_prob(z[0, 0]).shape == (3, 5)
        assert (
            Mixture(kind(*parameters()), LOGITS, validate_args=False)
            .expand((2,))
            .log_prob(torch.full((2,), math.nan).double())
            .isnan()
            .all()
        )

    def test_annealing_can_move_on_its_support(self, kind):
        assert biject_to(Mixture(kind(*parameters()), LOGITS).support)

    def test_values_outside_the_support(self):
        p = Mixture(diagonal(*parameters()), LOGITS)
        with pytest.raises(ValueError, match="outside the mixture's support"):
            p.log_prob(torch.tensor([1.0, math.nan]).double())
        with pyro.validation_enabled(False):
            assert (
                Mixture(diagonal(*parameters()), LOGITS)
                .log_prob(torch.tensor([1.0, math.nan]).double())
                .isnan()
            )

    def test_values_of_another_shape(self):
        with pytest.raises(ValueError, match=r"event shape \(2,\), got shape \(4, 3\)"):
            Mixture(diagonal(*parameters()), LOGITS).log_prob(torch.zeros(4, 3).double())

    def test_components_that_are_not_as_many_as_the_weights(self):
        with pytest.raises(ValueError, match=r"with 3 weights .* batch shape \(3,\), got \(4,\)"):
            Mixture(diagonal(*parameters()), LOGITS[:3])


MODEL = LinearGaussian.random(4, 2, 0.6, seed=3)
X = MODEL.simulate(3)


def evidence_ratio(estimator, prior):
    """Mean of estimated over exact p(x), which is 1 in expectation."""
    loc, scale = parameters()
    variances = scale.square() if prior is not full else roots(scale) @ roots(scale).mT
    exact = MODEL.mixture_log_evidence(X, LOGITS.softmax(0), loc, variances)
    p = prior(loc, scale) if prior is PerDimension else Mixture(prior(loc, scale), LOGITS)
    vae = VAE(lambda: p, MODEL.decoder, MODEL.mean_field_posterior)
    found = estimator(vae.model, vae.guide, X)
    ratio = (found.log_prob - exact.detach()).exp()
    error = (ratio * found.standard_error).square().sum().sqrt().item() / len(X)
    return Estimate(ratio.mean().item(), error)


ESTIMATORS = {
    "importance sampling": ImportanceSampling(20_000),
    "annealing": AnnealedImportanceSampling(15, 500, 2, rows=10**6),
}


@pytest.mark.parametrize("estimator", ESTIMATORS.values(), ids=ESTIMATORS)
class TestEvidence:
    """log p(x) under a linear-Gaussian decoder, in closed form."""

    @pytest.mark.parametrize("prior", [diagonal, full])
    def test_is_exact(self, estimator, prior, significance):
        significance.require_equal(evidence_ratio(estimator, prior), 1.0)

    def test_of_the_test_a_density_mixed_by_dimension(self, estimator, significance):
        with pytest.raises(AssertionError):
            significance.require_equal(evidence_ratio(estimator, PerDimension), 1.0)


class TestFullCovariances:
    """Their density by inverse factors, against torch's by triangular solves."""

    LEAST = 1e-3

    def parts(self, dtype):
        make = torch.Generator().manual_seed(0)
        loc = 3 * torch.randn(5, 20, generator=make).double()
        turn = torch.linalg.qr(torch.randn(5, 20, 20, generator=make).double()).Q
        # Standard deviations from 1e-3 to 1 in directions of each component's own.
        variances = torch.logspace(2 * math.log10(self.LEAST), 0, 20, dtype=torch.float64)
        root = torch.linalg.cholesky(turn * variances @ turn.mT)
        logits = torch.randn(5, generator=make).double()
        near = loc[:2] + 0.5 * (root[:2] @ torch.randn(20, 1, generator=make).double()).squeeze(-1)
        z = torch.cat([near, torch.randn(30, 20, generator=make).double()])
        return [each.to(dtype).requires_grad_() for each in (z, loc, root, logits)]

    def log_prob(self, z, loc, root, logits):
        normals = dist.MultivariateNormal(loc, scale_tril=root, validate_args=False)
        return Mixture(normals, logits).log_prob(z)

    def exact(self, z, loc, root, logits):
        each = torch.distributions.MultivariateNormal(loc, scale_tril=root, validate_args=False)
        return torch.logsumexp(each.log_prob(z.unsqueeze(1)) + logits.log_softmax(-1), -1)

    def test_density_and_gradients_are_those_of_torch(self):
        parts = self.parts(torch.float64)
        found, expected = self.log_prob(*parts), self.exact(*parts)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
        for each, wanted in zip(
            torch.autograd.grad(found.sum(), parts),
            torch.autograd.grad(expected.sum(), parts),
            strict=True,
        ):
            torch.testing.assert_close(each, wanted, rtol=1e-6, atol=1e-6)

    def test_points_of_another_type(self):
        z, *single = self.parts(torch.float32)
        found = self.log_prob(z.double(), *single)
        assert found.dtype is torch.float64
        torch.testing.assert_close(found, self.log_prob(z, *single).double(), rtol=1e-4, atol=1e-3)

    def test_single_precision_is_no_worse_than_torch(self):
        single = self.parts(torch.float32)
        exact = self.exact(*(part.double() for part in single))
        ours, torchs = (
            ((f(*single).double() - exact) / exact).abs().max() for f in (self.log_prob, self.exact)
        )
        assert ours <= 2 * torchs
