"""Integrals against closed forms, and boxes that are where the draws are."""

import math

import pytest
import torch

from ppl_vae.testing.distributions._cubature import FARTHEST, FittedCoordinates, boxes, integrate


def normal(w):
    return (-0.5 * w.square().sum(-1, keepdim=True)).exp()


def boxes_among(draws, most=15):
    edge = torch.full((draws.shape[1],), FARTHEST + 3).double()
    return [torch.stack(corners) for corners in zip(*boxes(draws, -edge, edge, most), strict=True)]


@pytest.mark.parametrize("dim", [1, 2])
def test_boxes_cover_everything_once(dim):
    low, high = boxes_among(torch.randn(2000, dim).double())
    assert (high > low).all()
    assert (high - low).prod(-1).sum().item() == pytest.approx((2 * FARTHEST + 6) ** dim)
    points = 20 * torch.rand(500, 1, dim).double() - 10
    inside = (points >= low) & (points < high)
    assert (inside.all(-1).sum(-1) == 1).all()


@pytest.mark.parametrize("dim", [1, 2])
def test_an_integral_and_its_error(dim):
    integral = integrate(normal, torch.randn(2000, dim).double())
    expected = (2 * math.pi) ** (dim / 2)
    # Far out, where no draws are, less than 1 of 2000 is left out.
    assert integral.total.item() == pytest.approx(expected, abs=integral.error + 1e-7)
    assert integral.error < 1e-4


@pytest.mark.parametrize("dim", [1, 2])
def test_the_error_covers_a_step(dim):
    integral = integrate(
        lambda w: (w > 0.1234).all(-1, keepdim=True) * normal(w), torch.randn(2000, dim).double()
    )
    tail = math.sqrt(math.pi / 2) * math.erfc(0.1234 / math.sqrt(2))
    assert abs(integral.total.item() - tail**dim) < integral.error < 0.1


@pytest.mark.parametrize("dim", [1, 2])
def test_a_narrow_mode_is_found_where_draws_are(dim):
    draws = torch.randn(4000, dim).double()
    draws[:1000] = 9 + 1e-5 * draws[:1000]

    def integrand(w):
        narrow = normal((w - 9) / 1e-5) / 1e-5**dim
        return (0.75 * normal(w) + 0.25 * narrow) / (2 * math.pi) ** (dim / 2)

    assert integrate(integrand, draws).total.item() == pytest.approx(1, abs=2e-3)


def test_equal_draws_end_the_search_for_boxes():
    assert len(boxes_among(torch.zeros(1000, 2).double())[0]) < 1000


@pytest.mark.parametrize("dim", [1, 3])
def test_the_coordinates_have_an_inverse_and_their_jacobian(dim):
    mixing = torch.randn(dim, dim).double()
    coordinates = FittedCoordinates.of(torch.randn(500, dim).double() @ mixing + 5)
    w = 4 * torch.randn(6, dim).double()
    u, log_volume = coordinates(w)
    torch.testing.assert_close(coordinates.inverse(u), w)
    jacobians = torch.stack([torch.autograd.functional.jacobian(lambda v: coordinates(v)[0][0], row)
                             for row in w.unsqueeze(1)])[:, :, 0]  # fmt: skip
    torch.testing.assert_close(log_volume, torch.linalg.slogdet(jacobians).logabsdet)
