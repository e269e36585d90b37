import math

import pyro
import pytest
import torch
from programs import LinearChain, binary_data, binary_vae
from torch import nn

from ppl_vae.objectives import ELBO, IWAE, AnalyticELBO, Objective

X = binary_data()
OBJECTIVES = [ELBO, AnalyticELBO, IWAE]
AVERAGES = [ELBO, AnalyticELBO]


class Doubled(Objective):
    """An objective whose gradient is not that of its bound."""

    def bound(self, particles):
        return particles.log_weight.mean(0)

    def surrogate(self, particles, bound):
        return 2 * bound + 5


def gradient(objective, x=X):
    vae = binary_vae()
    torch.manual_seed(0)
    value = objective.loss_and_grads(vae.model, vae.guide, x)
    return value, [p.grad for p in vae.parameters()]


def test_the_bound_is_reported_and_the_surrogate_differentiated():
    value, twice = gradient(Doubled(1))
    expected, once = gradient(ELBO())
    assert value == pytest.approx(expected)
    torch.testing.assert_close(twice, [2 * g for g in once])


@pytest.mark.parametrize("kind", OBJECTIVES)
@pytest.mark.parametrize("count", [0, -1])
def test_too_few_particles(kind, count):
    with pytest.raises(ValueError, match=rf"{kind.__name__} needs num_particles >= 1 .* {count}"):
        kind(count)


@pytest.mark.parametrize("count", [1.5, "3", None, math.nan])
def test_particles_that_are_no_number(unchecked_types, count):
    with pytest.raises(ValueError, match="IWAE needs num_particles >= 1"):
        IWAE(count)


def test_an_objective_is_abstract():
    with pytest.raises(TypeError, match="abstract"):
        Objective()


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_it_is_a_pyro_elbo_and_says_what_it_is(kind):
    assert isinstance(kind(7), pyro.infer.ELBO)
    assert repr(kind(7)) == f"{kind.__name__}(num_particles=7)"
    assert kind(7).num_particles == 7


@pytest.mark.parametrize("kind", AVERAGES)
def test_averages_take_one_particle_by_default(kind):
    assert kind().num_particles == 1


def test_bounds_that_mean_another_thing_for_each_number_have_no_default():
    with pytest.raises(TypeError, match="num_particles"):
        IWAE()


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_the_loss_is_the_negative_sum_of_bounds(kind):
    vae, objective = binary_vae(), kind(3)
    torch.manual_seed(0)
    bound = objective.bound(objective.draw(vae.model, vae.guide, X))
    torch.manual_seed(0)
    assert objective.loss(vae.model, vae.guide, X) == pytest.approx(-bound.sum().item())
    assert bound.shape == (len(X),)


def test_loss_leaves_no_gradient_and_gives_a_float():
    vae = binary_vae()
    assert isinstance(ELBO().loss(vae.model, vae.guide, X), float)
    assert all(p.grad is None for p in vae.parameters())


def test_a_model_without_parameters_has_a_loss():
    chain = LinearChain().requires_grad_(False)
    x = chain.simulate(4)
    value = ELBO(2).loss_and_grads(chain.model, chain.top_down, x)
    assert value == pytest.approx(-chain.log_evidence(x).sum().item())


def test_as_a_module_it_has_the_parameters_of_the_owners_once():
    vae = binary_vae()
    module = IWAE(3)(vae.model, vae.guide)
    assert {id(p) for p in module.parameters()} == {id(p) for p in vae.parameters()}
    assert len(list(module.parameters())) == len(list(vae.parameters()))
    assert module(X).shape == ()


def test_as_a_module_of_two_owners_and_of_functions():
    class Program(nn.Module):
        def __init__(self, function):
            super().__init__()
            self.function, self.own = function, nn.Parameter(torch.zeros(2))

        def forward(self, x):
            return self.function(x)

    vae = binary_vae()
    model, guide = Program(vae.model), Program(vae.guide)
    module = ELBO()(model, guide)
    assert {id(p) for p in module.parameters()} >= {id(model.own), id(guide.own)}
    assert module(X).item() > 0
    of_functions = ELBO()(lambda x: vae.model(x), lambda x: vae.guide(x))
    assert {id(p) for p in of_functions.parameters()} == {id(p) for p in vae.parameters()}


def test_a_training_loop_in_plain_torch():
    vae = binary_vae()
    loss = ELBO(5)(vae.model, vae.guide)
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.02)
    before = loss(X).item()
    for _ in range(60):
        optimizer.zero_grad()
        loss(X).backward()
        optimizer.step()
    assert loss(X).item() < before - 10


def test_a_non_finite_density_is_an_error_on_the_cpu():
    vae = binary_vae()
    with torch.no_grad():
        vae.encoder.network.output.bias[0] = math.nan
    for act in (ELBO().loss, ELBO().loss_and_grads):
        with pytest.raises(ValueError, match="nan at site 'z' of the guide"):
            act(vae.model, vae.guide, X)
