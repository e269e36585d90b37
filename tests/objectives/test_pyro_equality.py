"""On one seed, the value and gradient of Pyro's own objectives."""

import pyro
import pytest
import torch
from programs import LinearChain, binary_data, binary_vae
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO

from ppl_vae.objectives import ELBO, IWAE, AnalyticELBO

X = binary_data().double()


def pair(vae, how):
    """The VAE's model and guide: as they are, scaled, or on a random part of the data."""
    size = 10 if how == "subsampled" else None

    def model(x):
        with pyro.plate("data", len(x), subsample_size=size) as rows:
            z = pyro.sample("z", vae.prior())
            pyro.sample("x", vae.decoder(z), obs=x[rows])

    def guide(x):
        with pyro.plate("data", len(x), subsample_size=size) as rows:
            pyro.sample("z", vae.encoder(x[rows]))

    if how == "scaled":
        return poutine.scale(model, scale=0.3), poutine.scale(guide, scale=0.3)
    return model, guide


def value_and_gradient(objective, model, guide, x, parameters):
    torch.manual_seed(11)
    for parameter in parameters:
        parameter.grad = None
    # Pyro's loss_and_grads differentiates only what a pyro.param statement announces.
    loss = objective.differentiable_loss(model, guide, x)
    loss.backward()
    return loss.detach(), [parameter.grad for parameter in parameters]


def theirs(kind, num_particles):
    return kind(num_particles=num_particles, vectorize_particles=True, max_plate_nesting=1)


@pytest.mark.parametrize("how", ["plain", "scaled", "subsampled"])
@pytest.mark.parametrize("num_particles", [1, 4])
@pytest.mark.parametrize(
    ("ours", "pyros"), [(ELBO, Trace_ELBO), (AnalyticELBO, TraceMeanField_ELBO)]
)
def test_vae(ours, pyros, num_particles, how):
    vae = binary_vae(learned_prior=True).double()
    model, guide = pair(vae, how)
    parameters = list(vae.parameters())
    expected = value_and_gradient(theirs(pyros, num_particles), model, guide, X, parameters)
    torch.testing.assert_close(
        value_and_gradient(ours(num_particles), model, guide, X, parameters), expected
    )


@pytest.mark.parametrize("num_particles", [1, 4])
@pytest.mark.parametrize(
    ("ours", "pyros", "guide"),
    [
        (ELBO, Trace_ELBO, "top_down"),
        (ELBO, Trace_ELBO, "bottom_up"),
        (ELBO, Trace_ELBO, "rough"),
        (AnalyticELBO, TraceMeanField_ELBO, "rough"),
    ],
)
def test_two_layers(ours, pyros, guide, num_particles):
    chain = LinearChain()
    x = chain.simulate(5)
    parameters = [chain.A, chain.B]
    programs = chain.model, getattr(chain, guide)
    expected = value_and_gradient(theirs(pyros, num_particles), *programs, x, parameters)
    torch.testing.assert_close(
        value_and_gradient(ours(num_particles), *programs, x, parameters), expected
    )


def test_iwae_of_one_particle_is_the_elbo():
    vae = binary_vae().double()
    parameters = list(vae.parameters())
    results = [
        value_and_gradient(objective, vae.model, vae.guide, X, parameters)
        for objective in (IWAE(1), Trace_ELBO())
    ]
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("objective", [ELBO(3), AnalyticELBO(3), IWAE(3)], ids=repr)
def test_in_svi_and_as_a_module(objective):
    """SVI(loss=objective), objective(model, guide)(x) and loss_and_grads are one thing."""
    gradients, values = [], []
    for way in ("svi", "module", "loss_and_grads"):
        vae = binary_vae().double()
        torch.manual_seed(3)
        if way == "svi":
            optimizer = pyro.optim.SGD({"lr": 1.0})
            start = [p.detach().clone() for p in vae.parameters()]
            values.append(SVI(vae.model, vae.guide, optimizer, loss=objective).step(X))
            gradients.append([a - b for a, b in zip(start, vae.parameters(), strict=True)])
            continue
        if way == "module":
            loss = objective(vae.model, vae.guide)(X)
            loss.backward()
            values.append(loss.item())
        else:
            values.append(objective.loss_and_grads(vae.model, vae.guide, X))
        gradients.append([p.grad for p in vae.parameters()])
    assert values[0] == values[1] == values[2]
    torch.testing.assert_close(gradients[1], gradients[2], rtol=0, atol=0)
    torch.testing.assert_close(gradients[0], gradients[1])


def test_evaluate_loss_leaves_no_gradient():
    vae = binary_vae().double()
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({}), loss=ELBO())
    torch.manual_seed(3)
    value = svi.evaluate_loss(X)
    torch.manual_seed(3)
    assert value == pytest.approx(Trace_ELBO().loss(vae.model, vae.guide, X))
    assert all(p.grad is None for p in vae.parameters())
