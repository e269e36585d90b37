"""Densities against grids on the sphere, draws and their gradients against exact expectations."""

import math

import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints
from significance import mean_of
from torch.distributions import kl_divergence

from ppl_vae.distributions import VonMisesFisher, sphere_cumulants
from ppl_vae.distributions._von_mises_fisher import _Draw, log_area


def double(value):
    return torch.tensor(value, dtype=torch.float64)


def unit(dimension, seed=0):
    generator = torch.Generator().manual_seed(seed)
    vector = torch.randn(dimension, dtype=torch.float64, generator=generator)
    return vector / vector.norm()


def circle(number):
    """Points of the circle with their weights."""
    angle = 2 * math.pi * torch.arange(number, dtype=torch.float64) / number
    points = torch.stack([torch.cos(angle), torch.sin(angle)], -1)
    return points, torch.full((number,), 2 * math.pi / number, dtype=torch.float64)


def sphere(number):
    """Points of the sphere in three dimensions: heights by a midpoint rule, times a circle."""
    height = (2 * torch.arange(number, dtype=torch.float64) + 1) / number - 1
    ring, weight = circle(64)
    radius = torch.sqrt(1 - height.square())
    points = torch.cat(
        [
            radius[:, None, None] * ring,
            height[:, None, None].expand(-1, len(ring), 1),
        ],
        -1,
    )
    return points.flatten(0, 1), (2 / number * weight).repeat(number)


class TestDensity:
    @pytest.mark.parametrize("concentration", [0.0, 0.7, 8.0])
    @pytest.mark.parametrize(("dimension", "points"), [(2, circle(200)), (3, sphere(4000))])
    def test_integrates_to_one(self, dimension, points, concentration):
        z, weight = points
        law = VonMisesFisher(unit(dimension), double(concentration))
        total = (weight * law.log_prob(z).exp()).sum().item()
        # The midpoint rule's error is of the order of the step squared.
        assert total == pytest.approx(1, abs=1e-12 if dimension == 2 else 1e-5)

    @pytest.mark.parametrize("dimension", [4, 11])
    @pytest.mark.parametrize("concentration", [0.0, 3.0, 40.0])
    def test_integrates_to_one_ring_by_ring(self, dimension, concentration):
        """In more dimensions: points at an angle to mu have a ring of radius sin(angle)."""
        loc = torch.eye(dimension, dtype=torch.float64)[0]
        number = 20_000
        angle = math.pi * (torch.arange(number, dtype=torch.float64) + 0.5) / number
        z = torch.zeros(number, dimension, dtype=torch.float64)
        z[:, 0], z[:, 1] = torch.cos(angle), torch.sin(angle)
        log_prob = VonMisesFisher(loc, double(concentration)).log_prob(z)
        ring = log_area(dimension - 1) + (dimension - 2) * torch.sin(angle).log()
        total = (math.pi / number * torch.exp(log_prob + ring)).sum().item()
        assert total == pytest.approx(1, abs=1e-7)

    def test_is_pyros_on_the_circle_and_in_three_dimensions(self):
        z, _ = circle(7)
        angle, at = torch.atan2(z[:, 1], z[:, 0]), double(0.4)
        loc = torch.stack([torch.cos(at), torch.sin(at)])
        ours = VonMisesFisher(loc, double(2.5)).log_prob(z)
        # Its Bessel function is a fit to seven digits.
        torch.testing.assert_close(ours, dist.VonMises(at, 2.5).log_prob(angle), rtol=0, atol=1e-6)
        z, loc = sphere(6)[0], unit(3)
        ours = VonMisesFisher(loc, double(2.5)).log_prob(z)
        torch.testing.assert_close(ours, dist.VonMises3D(2.5 * loc).log_prob(z))

    def test_areas(self):
        areas = [math.exp(log_area(m)) for m in (2, 3, 4)]
        assert areas == pytest.approx([2 * math.pi, 4 * math.pi, 2 * math.pi**2])

    def test_gradients(self):
        loc, z = unit(4).requires_grad_(), unit(4, seed=1).requires_grad_()
        concentration = double(3.0).requires_grad_()

        def log_prob(loc, concentration, z):
            return VonMisesFisher(loc, concentration, validate_args=False).log_prob(z)

        assert torch.autograd.gradcheck(log_prob, (loc, concentration, z))

    def test_values_off_the_sphere_are_refused(self):
        law = VonMisesFisher(unit(3), double(1.0))
        for value in (torch.zeros(3), torch.ones(3), torch.full((3,), math.nan)):
            with pytest.raises(ValueError, match=r"norm 1, got .*VonMisesFisherEncoder"):
                law.log_prob(value.double())
        assert VonMisesFisher(unit(3), double(1.0), validate_args=False).log_prob(
            torch.zeros(3).double()
        )


class TestShapes:
    def test_batches_draws_and_densities(self):
        loc = torch.nn.functional.normalize(torch.randn(5, 4), dim=-1)
        law = VonMisesFisher(loc, torch.rand(5))
        assert (law.batch_shape, law.event_shape) == ((5,), (4,))
        z = law.rsample((3, 2))
        assert z.shape == (3, 2, 5, 4)
        assert law.log_prob(z).shape == (3, 2, 5)
        assert law.log_prob(z[0, 0, 0]).shape == (5,)
        assert VonMisesFisher(loc[0], torch.rand(5)).sample().shape == (5, 4)

    def test_expand(self):
        law = VonMisesFisher(unit(4), double(2.0), validate_args=False)
        big = law.expand([3, 5])
        assert (big.batch_shape, big.sample().shape) == ((3, 5), (3, 5, 4))
        assert big._validate_args is False
        z = law.sample()
        torch.testing.assert_close(big.log_prob(z), law.log_prob(z).expand(3, 5))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("dimension", [2, 3, 50])
    def test_draws_stand_on_the_sphere(self, dtype, dimension):
        loc = torch.nn.functional.normalize(torch.randn(20_000, dimension, dtype=dtype), dim=-1)
        law = VonMisesFisher(loc, 10 * torch.rand(20_000, dtype=dtype))
        z = law.sample()
        assert z.dtype == dtype
        assert constraints.sphere.check(z).all()
        assert law.log_prob(z).isfinite().all()


class TestDraws:
    @pytest.mark.parametrize(("dimension", "concentration"), [(2, 1.5), (3, 4.0), (7, 6.0)])
    def test_mean_and_variance(self, dimension, concentration, significance):
        law = VonMisesFisher(unit(dimension), double(concentration))
        z = law.sample((30_000,))
        each = significance.split(2 * dimension)
        for d in range(dimension):
            mean, variance = law.mean[d].item(), law.variance[d].item()
            each.require_equal(mean_of(z[:, d]), mean)
            each.require_equal(mean_of((z[:, d] - mean).square()), variance)

    def test_uniform(self, significance):
        """Means 0 and second moments 1/m, whatever the location."""
        law = VonMisesFisher(unit(5), double(0.0))
        z = law.sample((30_000,))
        torch.testing.assert_close(law.mean, torch.zeros(5, dtype=torch.float64))
        torch.testing.assert_close(law.variance, torch.full((5,), 0.2, dtype=torch.float64))
        each = significance.split(10)
        for d in range(5):
            each.require_equal(mean_of(z[:, d]), 0)
            each.require_equal(mean_of(z[:, d].square()), 0.2)


def moments(dimension, concentration):
    """``E t`` and ``E t^2`` and their derivatives by the concentration, by differences."""

    def both(k):
        k = double(k).requires_grad_()
        ratio = sphere_cumulants(k, dimension)[1]
        (variance,) = torch.autograd.grad(ratio, k)
        return torch.stack([ratio.detach(), variance + ratio.detach() ** 2])

    step = 1e-5
    slope = (both(concentration + step) - both(concentration - step)) / (2 * step)
    return both(concentration), slope


def through_accepted_proposals(concentration, cosine, dimension):
    """The wrong gradient: draws of t as Wood's sampler makes them of proposals that it accepts."""
    last = dimension - 1

    def b(k):
        return last / (2 * k + torch.sqrt(4 * k**2 + last**2))

    held = b(concentration.detach())
    share = (1 - cosine) / ((1 + held) - (1 - held) * cosine)
    return 1 - 2 * b(concentration) * share / (1 - (1 - b(concentration)) * share)


class TestGradientOfDraws:
    @pytest.mark.parametrize(
        ("dimension", "concentration"), [(2, 0.5), (2, 6.0), (3, 1.0), (5, 2.0), (30, 40.0)]
    )
    def test_by_the_concentration(self, dimension, concentration, significance):
        """Of E t and E t^2, t = mu'z."""
        count, loc = 20_000, unit(dimension)
        k = torch.full((count,), concentration, dtype=torch.float64, requires_grad=True)
        t = (VonMisesFisher(loc, k).rsample() * loc).sum(-1)
        both = significance.split(2)
        for power, exact in zip((1, 2), moments(dimension, concentration)[1], strict=True):
            (gradient,) = torch.autograd.grad((t**power).sum(), k, retain_graph=True)
            both.require_equal(mean_of(gradient), exact.item())

    @pytest.mark.parametrize(("dimension", "concentration"), [(2, 1.0), (3, 2.0), (6, 5.0)])
    def test_by_the_location(self, dimension, concentration, significance):
        """Of ``E a'z + (c'z)^2`` along tangents, where mu moves."""
        count, loc = 20_000, unit(dimension)
        rows = loc.expand(count, -1).clone().requires_grad_()
        z = VonMisesFisher(rows, torch.full((count,), concentration).double()).rsample()
        a, c = unit(dimension, seed=1), unit(dimension, seed=2)
        (gradient,) = torch.autograd.grad(((z * a).sum(-1) + (z * c).sum(-1) ** 2).sum(), rows)
        first, second = moments(dimension, concentration)[0].tolist()
        across = (1 - second) / (dimension - 1)
        each = significance.split(dimension - 1)
        for seed in range(3, 2 + dimension):
            tangent = unit(dimension, seed)
            tangent = tangent - (tangent @ loc) * loc
            # E z = A mu, E zz' = E t^2 mu mu' + across (1 - mu mu').
            exact = first * (a @ tangent) + 2 * (second - across) * (c @ loc) * (c @ tangent)
            each.require_equal(mean_of(gradient @ tangent), exact.item())

    def test_the_test_finds_the_sampler_differentiated_naively(self, significance):
        """Of E t in 5 dimensions, where it gives 0.128 in place of 0.142."""
        k = torch.full((20_000,), 2.0, dtype=torch.float64, requires_grad=True)
        drawn = (VonMisesFisher(unit(5), k).sample() * unit(5)).sum(-1)
        t = through_accepted_proposals(k, drawn, 5)
        torch.testing.assert_close(t, drawn)
        (gradient,) = torch.autograd.grad(t.sum(), k)
        exact = moments(5, 2.0)[1][0].item()
        significance.require_less(mean_of(gradient), exact)

    def test_has_finite_variance_in_three_dimensions(self):
        """The gradient is no longer than what it is the gradient of: a rotation."""
        loc = unit(3).expand(50_000, -1).clone().requires_grad_()
        z = VonMisesFisher(loc, torch.full((50_000,), 0.1).double()).rsample()
        (gradient,) = torch.autograd.grad(z[:, 0].sum(), loc)
        assert gradient.norm(dim=-1).max() <= 2

    def test_float32_agrees_with_float64(self):
        gradients = []
        for dtype in (torch.float32, torch.float64):
            loc = unit(3).to(dtype).expand(50, -1).clone().requires_grad_()
            k = torch.full((50,), 3.0, dtype=dtype, requires_grad=True)
            across = torch.linalg.cross(loc, unit(3, seed=5).to(loc).expand_as(loc)).detach()
            across = torch.nn.functional.normalize(across, dim=-1)
            z = _Draw.apply(loc, k, torch.linspace(0.1, 2, 50, dtype=dtype), across)
            (z * unit(3, seed=1).to(dtype)).sum().backward()
            gradients.append((loc.grad.double(), k.grad.double()))
        for ours, theirs in zip(*gradients, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)

    def test_no_second_derivative_is_claimed(self):
        k = double(2.0).requires_grad_()
        z = VonMisesFisher(unit(3), k).rsample()
        (first,) = torch.autograd.grad(z.square().sum(), k, create_graph=True)
        with pytest.raises(RuntimeError, match="once_differentiable"):
            first.backward()


class TestDivergence:
    @pytest.mark.parametrize("dimension", [2, 3, 10])
    def test_from_the_uniform(self, dimension, significance):
        law = VonMisesFisher(unit(dimension), double(5.0))
        uniform = VonMisesFisher(unit(dimension, seed=1), double(0.0))
        z = law.sample((20_000,))
        difference = law.log_prob(z) - uniform.log_prob(z)
        significance.require_equal(mean_of(difference), kl_divergence(law, uniform).item())

    def test_of_two(self, significance):
        p = VonMisesFisher(unit(4), double(5.0))
        q = VonMisesFisher(unit(4, seed=1), double(3.0))
        z = p.sample((20_000,))
        exact = kl_divergence(p, q).item()
        significance.require_equal(mean_of(p.log_prob(z) - q.log_prob(z)), exact)
        assert kl_divergence(p, p).item() == pytest.approx(0, abs=1e-14)

    def test_small_and_large_concentrations(self):
        """k^2 / 2m, and the log-ratio of the surface to a normal's volume, (m - 1)/2 log k."""
        uniform = VonMisesFisher(unit(6), double(0.0))
        k = double([1e-3, 1e5, 1e6])
        small, large, larger = kl_divergence(VonMisesFisher(unit(6), k), uniform).tolist()
        assert small == pytest.approx(1e-6 / 12, rel=1e-5)
        assert larger - large == pytest.approx(2.5 * math.log(10), rel=1e-4)

    def test_gradient(self):
        uniform = VonMisesFisher(unit(6), double(0.0))
        k = double([0.1, 3.0, 50.0]).requires_grad_()

        def divergence(k):
            return kl_divergence(VonMisesFisher(unit(6), k), uniform)

        assert torch.autograd.gradcheck(divergence, (k,))

    def test_broadcasts(self):
        law = VonMisesFisher(unit(3), torch.rand(4, 5).double())
        assert kl_divergence(law, VonMisesFisher(unit(3), double(0.0))).shape == (4, 5)
