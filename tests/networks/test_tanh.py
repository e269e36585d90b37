"""The tangent of many numbers against torch's, which is slower."""

import pytest
import torch
from torch import nn

from ppl_vae._graphs import recording
from ppl_vae.networks import MLP
from ppl_vae.networks._tanh import _MANY, Tanh

MANY = torch.cat(
    [torch.linspace(-12, 12, _MANY - 6), torch.tensor([0.0, 1e-30, -1e-5, 1e4, -1e30, 3e38])]
)


def both(x):
    """The value in single precision, and the exact one."""
    return Tanh()(x), torch.tanh(x.double())


def test_the_value():
    found, exact = both(MANY)
    assert (found - exact).abs().max() < 2e-7
    assert found.dtype is torch.float32


def test_the_ends_are_exact():
    found = Tanh()(torch.tensor([torch.inf, -torch.inf, torch.nan, 0.0]).repeat(_MANY))[:4]
    torch.testing.assert_close(
        found, torch.tensor([1.0, -1.0, torch.nan, 0.0]), equal_nan=True, rtol=0, atol=0
    )


def test_the_gradient():
    x = MANY.clone().requires_grad_()
    (found,) = torch.autograd.grad(Tanh()(x).sum(), x)
    exact = 1 - torch.tanh(MANY.double()).square()
    assert (found - exact).abs().max() < 4e-7


def test_the_second_derivative():
    """As an objective takes it that differentiates through steps of its guide."""
    x = MANY.clone().requires_grad_()
    (first,) = torch.autograd.grad(Tanh()(x).sum(), x, create_graph=True)
    (found,) = torch.autograd.grad(first.sum(), x)
    exact = torch.tanh(MANY.double())
    exact = -2 * exact * (1 - exact.square())
    assert (found - exact).abs().max() < 1e-6


@pytest.mark.parametrize("x", [MANY[:-1], MANY.double()], ids=["few numbers", "double precision"])
def test_else_it_is_torch_s(x):
    assert torch.equal(Tanh()(x), torch.tanh(x))


def test_a_compiler_is_given_torch_s():
    with recording():
        assert torch.equal(Tanh()(MANY), torch.tanh(MANY))


def test_a_batch_of_functions():
    """vmap of a gradient: one for each row."""
    x = MANY.repeat(3).view(3, -1)
    found = torch.func.vmap(torch.func.grad(lambda row: Tanh()(row).sum()))(x)
    torch.testing.assert_close(found, 1 - torch.tanh(x).square(), rtol=0, atol=5e-7)


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_forward_mode():
    slope = torch.linspace(-1, 1, len(MANY))
    value, found = torch.func.jvp(Tanh(), (MANY,), (slope,))
    exact = torch.tanh(MANY.double())
    assert (value - exact).abs().max() < 2e-7
    assert (found - slope * (1 - exact.square())).abs().max() < 4e-7


def test_networks_take_it():
    network = MLP(4, [100], 3)
    assert [type(layer) for layer in network.hidden] == [nn.Linear, Tanh]
    assert isinstance(network.hidden[1], nn.Tanh)
    x = torch.randn(_MANY // 100 + 1, 4)
    plain = network.output(torch.tanh(network.hidden[0](x)))
    torch.testing.assert_close(network(x), plain, rtol=0, atol=1e-6)
    assert not torch.equal(network(x), plain)
