"""Thousands of independent gradients in one backward pass, and what they should be on average.

The model and guide of ``linear``, for one datum x repeated: every copy of x has parameters of its
own, so that the rows of their gradients are independent replicates. The guide is mild: near the
posterior, and wider, so that the weights have the moments that standard errors need.
"""

import pytest
import torch
from significance import mean_of
from torch import Tensor

from .linear import LATENT, NOISE, X, parameters, programs

x = X[:1]
COPIED = ("b", "m", "t", "c", "s")
WIDTH = 1.25


def mild_parameters():
    """One copy of the parameters, without gradient; the guide's loc does not depend on x."""
    values = {name: value.detach() for name, value in parameters().items()}
    mean, precision = posterior(values)
    values["A"] = torch.zeros_like(values["A"])
    values["c"] = mean + 0.15
    values["s"] = (WIDTH * precision.diagonal().rsqrt()).log()
    return values


def posterior(values) -> tuple[Tensor, Tensor]:
    """Mean and precision of z given x."""
    W, b, m, t = (values[name] for name in ("W", "b", "m", "t"))
    precision = torch.diag((-2 * t).exp()) + W @ W.T / NOISE**2
    evidence = m * (-2 * t).exp() + (x[0] - b) @ W.T / NOISE**2
    return torch.linalg.solve(precision, evidence), precision


def log_evidence(values) -> Tensor:
    W, b, m, t = (values[name] for name in ("W", "b", "m", "t"))
    covariance = W.T @ torch.diag((2 * t).exp()) @ W + NOISE**2 * torch.eye(len(b), dtype=b.dtype)
    return torch.distributions.MultivariateNormal(m @ W + b, covariance).log_prob(x[0])


def log_moment(values, n: float) -> Tensor:
    """log of the integral of p(z|x)^n q(z|x)^(1-n): that of E_q[w^n], less n log p(x)."""
    mean, precision = posterior(values)
    c, diagonal = values["c"], torch.diag((-2 * values["s"]).exp())
    both = n * precision + (1 - n) * diagonal
    if torch.linalg.eigvalsh(both).min() <= 0:
        raise ValueError(f"the weights have no moment of order {n}")
    shift = n * precision @ mean + (1 - n) * diagonal @ c
    squares = n * mean @ precision @ mean + (1 - n) * c @ diagonal @ c
    exponent = shift @ torch.linalg.solve(both, shift) - squares
    log_dets = n * torch.logdet(precision) + (1 - n) * torch.logdet(diagonal) - torch.logdet(both)
    return 0.5 * (exponent + log_dets)


def mean_log_weight(values, power: float) -> Tensor:
    """E[log w] under q^(1-b) p(x, z)^b, normalised: the derivative of its log-integral."""
    b = torch.tensor(power, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(log_moment(values, b), b, create_graph=True)
    return log_evidence(values) + slope


def exact_gradient(function, names=COPIED):
    """Of a function of the parameters."""
    values = mild_parameters()
    leaves = {name: values[name].clone().requires_grad_() for name in names}
    found = torch.autograd.grad(function(values | leaves), list(leaves.values()), allow_unused=True)
    zeros = (torch.zeros_like(leaf) for leaf in leaves.values())
    return {n: z if g is None else g for n, g, z in zip(leaves, found, zeros, strict=True)}


def replicates(objective, count, seed=0):
    """Bounds (count,), and by parameter name gradients (count, dimension)."""
    values = mild_parameters()
    copies = {n: values[n].expand(count, -1).clone().requires_grad_() for n in COPIED}
    torch.manual_seed(seed)
    particles = objective.draw(*programs(**(values | copies)), x.expand(count, -1))
    loss, bound = objective.loss_of(particles)
    loss.backward()
    zeros = torch.zeros(count, LATENT, dtype=torch.float64)
    return bound, {n: zeros if v.grad is None else -v.grad for n, v in copies.items()}


def require_gradient(significance, gradient, expected, names):
    """Every coordinate's mean over the replicates is what it should be."""
    pairs = [
        (column, target)
        for name in names
        for column, target in zip(gradient[name].T, expected[name].tolist(), strict=True)
    ]
    significance = significance.split(significance.comparisons * len(pairs))
    for column, target in pairs:
        if column.std() < 1e-12:  # in closed form, without noise
            assert column.mean().item() == pytest.approx(target, rel=1e-9)
        else:
            significance.require_equal(mean_of(column), target)
