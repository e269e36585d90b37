"""A linear-normal model and guide whose every parameter is a tensor, and gradients of one draw.

z ~ Normal(m, exp(t)), x|z ~ Normal(W z + b, NOISE); z|x ~ Normal(A x + c, exp(s)). Float64.
"""

from typing import NamedTuple

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from ppl_vae.particles import Particles

FEATURES, LATENT, NOISE = 4, 2, 0.7
THETA, PHI = ("W", "b", "m", "t"), ("A", "c", "s")
SHAPES = {
    "W": (LATENT, FEATURES), "b": (FEATURES,), "m": (LATENT,), "t": (LATENT,),
    "A": (FEATURES, LATENT), "c": (LATENT,), "s": (LATENT,),
}  # fmt: skip
X = torch.randn(6, FEATURES, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


class Drawn(NamedTuple):
    """What one draw gave: the bound per datum, the gradient of the bound's sum, the particles."""

    bound: Tensor
    gradient: dict[str, Tensor]
    particles: Particles


def parameters():
    generator = torch.Generator().manual_seed(1)
    return {
        name: (torch.randn(shape, dtype=torch.float64, generator=generator) / 2).requires_grad_()
        for name, shape in SHAPES.items()
    }


def programs(W, b, m, t, A, c, s):
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(m, t.exp()).to_event(1))
            pyro.sample("x", dist.Normal(z @ W + b, NOISE).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x @ A + c, s.exp()).to_event(1))

    return model, guide


def draw_once(objective, seed=0, make=programs):
    """The objective on the draw of one seed."""
    values = parameters()
    torch.manual_seed(seed)
    particles = objective.draw(*make(**values), X)
    loss, bound = objective.loss_of(particles)
    torch.testing.assert_close(loss, -bound.sum())
    loss.backward()
    zero = {name: torch.zeros_like(value) for name, value in values.items()}
    gradient = {n: zero[n] if v.grad is None else -v.grad for n, v in values.items()}
    return Drawn(bound, gradient, particles)


def restrict(gradient, names):
    return {name: gradient[name] for name in names}
