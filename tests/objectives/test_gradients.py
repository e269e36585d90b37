"""Gradients: against finite differences, and in closed form on a captured draw."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions.testing.fakes import NonreparameterizedNormal

from ppl_vae.linear_gaussian import LinearGaussian
from ppl_vae.objectives import ELBO, IWAE, AnalyticELBO

OBJECTIVES = [ELBO(1), ELBO(4), AnalyticELBO(3), IWAE(4)]
NOISE = 0.7
TRUE = LinearGaussian.random(4, 2, NOISE, seed=2)
X = TRUE.simulate(3)


def parameters():
    """Of the model, W and b; of the guide, z|x ~ N(A x + c, diag(exp(2 l)))."""
    generator = torch.Generator().manual_seed(1)
    shapes = {"W": (4, 2), "b": (4,), "A": (4, 2), "c": (2,), "log_s": (2,)}
    return {
        name: (torch.randn(shape, dtype=torch.float64, generator=generator) / 2).requires_grad_()
        for name, shape in shapes.items()
    }


def pair(W, b, A, c, log_s):
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ W.T + b, NOISE).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x @ A + c, log_s.exp()).to_event(1))

    return model, guide


@pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
def test_finite_differences(objective):
    def loss(*values):
        torch.manual_seed(0)
        return objective.differentiable_loss(*pair(*values), X)

    assert torch.autograd.gradcheck(loss, tuple(parameters().values()))


@pytest.mark.parametrize("objective", [ELBO(4), IWAE(4)], ids=repr)
def test_closed_form_on_the_captured_draw(objective):
    values = parameters()
    particles = objective.draw(*pair(**values), X)
    loss, _ = objective.loss_of(particles)
    loss.backward()
    W, b, A, c, log_s = (value.detach() for value in values.values())
    z = particles.latents["z"].detach()
    if isinstance(objective, IWAE):
        weight = torch.softmax(particles.log_weight.detach(), 0)
    else:
        weight = torch.full((4, 3), 1 / 4, dtype=torch.float64)
    residual = (X - z @ W.T - b) / NOISE**2
    path = residual @ W - z  # d log p(x, z) / dz; log q(z(noise)) moves with log_s alone
    noise = (z - X @ A - c) / log_s.exp()
    expected = {
        "W": torch.einsum("kn,knf,knl->fl", weight, residual, z),
        "b": torch.einsum("kn,knf->f", weight, residual),
        "A": torch.einsum("kn,nf,knl->fl", weight, X, path),
        "c": torch.einsum("kn,knl->l", weight, path),
        "log_s": torch.einsum("kn,knl->l", weight, path * noise * log_s.exp() + 1),
    }
    torch.testing.assert_close({name: -value.grad for name, value in values.items()}, expected)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
def test_the_models_gradient_at_the_posterior_is_that_of_the_evidence(objective):
    """Where q is the posterior, E grad_theta = grad log p(x): exact for the sum, by Fisher."""
    model = LinearGaussian.random(4, 2, NOISE, seed=2)
    vae = model.vae()
    # With the guide a function of theta as well, the bound is log p(x) for every theta.
    objective.differentiable_loss(vae.model, vae.guide, X).backward()
    expected = torch.autograd.grad(-model.log_evidence(X).sum(), [model.weight, model.bias])
    torch.testing.assert_close([model.weight.grad, model.bias.grad], list(expected))


@pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
def test_a_guide_without_pathwise_gradient_is_refused_by_name(objective):
    values = parameters()
    model, _ = pair(**values)

    def guide(x):
        with pyro.plate("data", len(x)):
            loc = x @ values["A"] + values["c"]
            pyro.sample("z", NonreparameterizedNormal(loc, 1.0).to_event(1))

    for gradient in (objective.differentiable_loss, objective.loss_and_grads):
        with pytest.raises(ValueError, match=r"guide site 'z' .* no reparameterised sampler"):
            gradient(model, guide, X)
    # Its value needs no gradient.
    assert objective.loss(model, guide, X) > 0


def test_gradients_add_up_over_calls():
    values = parameters()
    for _ in range(2):
        torch.manual_seed(0)
        ELBO().loss_and_grads(*pair(**values), X)
    once = parameters()
    torch.manual_seed(0)
    ELBO().loss_and_grads(*pair(**once), X)
    for name in values:
        torch.testing.assert_close(values[name].grad, 2 * once[name].grad)
