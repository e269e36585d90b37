"""Reweighted wake-sleep: what the guide's updates tend to, and how fast."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from ppl_vae.objectives import RWS

from .linear import NOISE, PHI, THETA, X, draw_once, parameters, programs
from .replicated import (
    log_evidence,
    log_moment,
    mild_parameters,
    posterior,
    replicates,
    require_gradient,
)

COUNT = 30_000
GUIDE = ("c", "s")


def mean_score(values, mean, covariance):
    """Expectation of the score of q, in its parameters c and s, under a normal."""
    variance = (2 * values["s"]).exp()
    off = mean - values["c"]
    return {"c": off / variance, "s": (covariance.diagonal() + off.square()) / variance - 1}


def inclusive_gradient():
    """Minus the gradient of KL(p(z|x), q)."""
    values = mild_parameters()
    mean, precision = posterior(values)
    return mean_score(values, mean, torch.linalg.inv(precision))


def first_bias():
    """K times the bias of the self-normalised estimate: -E_q[(w/p(x))^2 (score - its mean)].

    Under p(z|x)^2 / q, a normal, up to its integral.
    """
    values = mild_parameters()
    mean, precision = posterior(values)
    diagonal = torch.diag((-2 * values["s"]).exp())
    both = 2 * precision - diagonal
    tilted = torch.linalg.solve(both, 2 * precision @ mean - diagonal @ values["c"])
    second = mean_score(values, tilted, torch.linalg.inv(both))
    target, factor = inclusive_gradient(), log_moment(values, 2).exp()
    return {name: -factor * (second[name] - target[name]) for name in GUIDE}


def test_the_wake_update_tends_to_the_inclusive_gradient(significance):
    """Twice the update at 2K less the one at K is free of a bias of order 1/K."""
    few, many = (replicates(RWS(K), 10_000, seed=K)[1] for K in (20, 40))
    combined = {name: 2 * many[name] - few[name] for name in GUIDE}
    require_gradient(significance, combined, inclusive_gradient(), GUIDE)


def bias_replicates(K, count):
    """(estimate - target) (1 - mean w / p(x)): the bias is its expectation.

    For E[estimate * mean w] is p(x) times the target; so the noise too falls as 1/K.
    """
    bound, gradient = replicates(RWS(K), count, seed=K)
    short = 1 - (bound - log_evidence(mild_parameters())).exp()
    target = inclusive_gradient()
    return {name: (gradient[name] - target[name]) * short.unsqueeze(-1) for name in GUIDE}


def check_bias(power, significance):
    """Equal to its first term at K = 40, and falling with the power of K from there."""
    for K, count in ((40, 8_000), (120, 4_000)):
        expected = {n: first / 40 * (40 / K) ** power for n, first in first_bias().items()}
        require_gradient(significance, bias_replicates(K, count), expected, GUIDE)


def test_its_bias_falls_as_one_over_k(significance):
    check_bias(1.0, significance)


@pytest.mark.parametrize("power", [0.0, 0.5, 2.0])
def test_of_the_rate(power, significance):
    with pytest.raises(AssertionError):
        check_bias(power, significance)


def sleep_replicates(seed=0):
    """Gradients of c and s, and of A by row, from simulated data; each datum has its own copies."""
    values = mild_parameters()
    values["A"] = parameters()["A"].detach()
    copies = {
        name: values[name].expand(COUNT, *values[name].shape).clone().requires_grad_()
        for name in PHI
    }

    def guide(x):
        with pyro.plate("data", len(x)):
            loc = (x.unsqueeze(-2) @ copies["A"]).squeeze(-2) + copies["c"]
            pyro.sample("z", dist.Normal(loc, copies["s"].exp()).to_event(1))

    model, _ = programs(**values)
    torch.manual_seed(seed)
    objective = RWS(1, phi="sleep")
    objective.differentiable_loss(model, guide, X[:1].expand(COUNT, -1)).backward()
    return values, {name: -copy.grad.flatten(1) for name, copy in copies.items()}


def joint_moments(values):
    """Mean of (z, x) and their covariance, by the model."""
    W, b, m, t = (values[name] for name in ("W", "b", "m", "t"))
    prior = torch.diag((2 * t).exp())
    mean = torch.cat([m, m @ W + b])
    noise = NOISE**2 * torch.eye(len(b), dtype=b.dtype)
    top = torch.cat([prior, prior @ W], 1)
    covariance = torch.cat([top, torch.cat([W.T @ prior, W.T @ prior @ W + noise], 1)])
    return mean, covariance


def exact_sleep(values):
    """E_p grad log q(z|x), q = Normal(A x + c, exp(s))."""
    mean, covariance = joint_moments(values)
    latent = len(values["m"])
    # off = z - A x - c is linear in (z, x).
    map_ = torch.cat([torch.eye(latent, dtype=mean.dtype), -values["A"].T], 1)
    off_mean = map_ @ mean - values["c"]
    variance = (2 * values["s"]).exp()
    with_x = covariance[latent:] @ map_.T + torch.outer(mean[latent:], off_mean)
    squares = (map_ @ covariance @ map_.T).diagonal() + off_mean.square()
    return {
        "A": (with_x / variance).flatten(),
        "c": off_mean / variance,
        "s": squares / variance - 1,
    }


def test_the_sleep_update_is_unbiased(significance):
    values, gradient = sleep_replicates()
    require_gradient(significance, gradient, exact_sleep(values), PHI)


def test_the_sleep_update_is_a_mean_over_draws():
    objective = RWS(5, phi="sleep")
    drawn = draw_once(objective)
    particles = drawn.particles
    weight = torch.softmax(particles.log_weight.detach(), 0)
    simulated = particles.simulation.log_guide
    assert simulated.shape == (5, 6)
    expected = (weight * particles.log_joint).sum(0) + simulated.mean(0)
    torch.testing.assert_close(objective.surrogate(particles, drawn.bound), expected)


def test_both_is_the_mean_of_wake_and_sleep():
    wake, sleep, both = (draw_once(RWS(4, phi=phi)).gradient for phi in ("wake", "sleep", "both"))
    for name in PHI:
        torch.testing.assert_close(both[name], (wake[name] + sleep[name]) / 2)
        assert not torch.allclose(wake[name], sleep[name])
    for name in THETA:
        torch.testing.assert_close(both[name], wake[name])
        torch.testing.assert_close(sleep[name], wake[name])


def test_the_sleep_update_is_blind_to_the_data():
    values = parameters()

    def gradient(x):
        torch.manual_seed(0)
        RWS(3, phi="sleep").differentiable_loss(*programs(**values), x).backward()
        found = {name: values[name].grad.clone() for name in PHI}
        for value in values.values():
            value.grad = None
        return found

    torch.testing.assert_close(gradient(X), gradient(X + 10))


def test_sleep_is_refused_where_the_model_observes_two_sites():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("left", dist.Normal(z[..., :1], 1.0).to_event(1), obs=x[:, :1])
            pyro.sample("right", dist.Normal(z[..., :3], 1.0).to_event(1), obs=x[:, 1:3])

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[:, :2], 1.0).to_event(1))

    message = r"only if the model observes one site of the shape of x, \(6, 4\).*left.*right"
    for phi in ("sleep", "both"):
        with pytest.raises(ValueError, match=message):
            RWS(2, phi=phi).loss_and_grads(model, guide, X)
        # The value needs no simulation.
        assert RWS(2, phi=phi).loss(model, guide, X) > 0
    RWS(2).differentiable_loss(model, guide, X)


def test_sleep_is_refused_on_a_part_of_the_data():
    def model(x):
        with pyro.plate("data", len(x), subsample_size=2) as rows:
            z = pyro.sample("z", dist.Normal(torch.zeros(4), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x[rows])

    def guide(x):
        with pyro.plate("data", len(x), subsample_size=2) as rows:
            pyro.sample("z", dist.Normal(x[rows], 1.0).to_event(1))

    with pytest.raises(ValueError, match="without subsampling"):
        RWS(2, phi="sleep").differentiable_loss(model, guide, X.float())


def test_updates_by_another_name(unchecked_types):
    with pytest.raises(ValueError, match="'wake', 'sleep' or 'both', got 'nap'"):
        RWS(2, phi="nap")
