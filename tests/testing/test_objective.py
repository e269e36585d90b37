"""The check as its users meet it; what it finds is tested in objectives/test_conformance.py."""

import math

import pyro
import pytest
import torch
from significance import mean_of

from ppl_vae.objectives import ELBO, IWAE, VIMCO, Objective
from ppl_vae.reference_models import (
    DISCRETE_STATES,
    discrete,
    exact,
    exact_chain,
    given,
    one_layer,
    two_layers,
)
from ppl_vae.testing import check_objective
from ppl_vae.testing._expectations import central_differences, groups_of
from ppl_vae.testing._identities import require_gradient


class Scalar(Objective):
    """One value for the whole batch."""

    def bound(self, particles):
        return particles.log_weight.mean()


class Broken(Objective):
    def bound(self, particles):
        raise KeyError("weights")


def test_the_report_names_every_rung():
    lines = str(check_objective(IWAE(4))).splitlines()
    assert lines[0].startswith("IWAE(num_particles=4), |z| below ")
    outcomes = {line[2:37].strip(): line[38:54].strip() for line in lines[1:]}
    assert outcomes == {
        "evidence at the posterior": "passed",
        "no guide gradient at the posterior": "not claimed",
        "direction of the bound": "passed",
        "growth with particles": "passed",
        "reported value": "passed",
        "scale and subsampling": "passed",
        "each datum by itself": "passed",
        "finite differences": "passed",
        "theta unbiased": "passed",
        "phi unbiased": "passed",
        "shared parameters unbiased": "passed",
        "discrete latents": "passed",
    }


def test_the_same_seed_gives_the_same_report():
    reports = [check_objective(VIMCO(2), seed=seed) for seed in (3, 3, 4)]
    assert reports[0] == reports[1]
    assert reports[0] != reports[2]


def test_it_leaves_everything_as_it_was():
    objective = IWAE(2)
    before = torch.get_rng_state(), dict(vars(objective))
    with torch.no_grad():
        check_objective(objective)
        assert not torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), before[0])
    assert vars(objective) == before[1]
    assert list(pyro.get_param_store()) == []


def test_a_bound_of_another_shape(unchecked_types):
    with pytest.raises(AssertionError, match=r"one value for each datum, shape \(64,\), found sha"):
        check_objective(Scalar(2))


def test_an_objective_that_raises(unchecked_types):
    with pytest.raises(AssertionError, match="reported value: KeyError: 'weights'") as caught:
        check_objective(Broken(2))
    assert isinstance(caught.value.__cause__, KeyError)


def test_what_is_no_objective(unchecked_types):
    with pytest.raises(TypeError, match=r"takes an objective, such as IWAE\(5\), got <class"):
        check_objective(IWAE)


@pytest.mark.parametrize("rate", [0.0, 1.0, -1.0])
def test_a_false_alarm_rate_is_a_probability(rate):
    with pytest.raises(ValueError, match="false_alarm must be between 0 and 1"):
        check_objective(ELBO(2), false_alarm=rate)


@pytest.mark.parametrize("bottom_up", [False, True])
def test_the_chains_posterior_is_exact(bottom_up):
    case = exact_chain(5, bottom_up=bottom_up)
    log_weight = ELBO(3).draw(case.model, case.guide, case.x).log_weight
    torch.testing.assert_close(log_weight, case.log_evidence.expand(3, -1))


def test_off_the_posterior_the_bound_is_low_by_the_divergence(significance):
    shift, wider = 1.0, 1.4
    case = exact(1, shift=shift, wider=wider)
    with torch.no_grad():
        bound = ELBO(1).draw(case.model, case.guide, case.x.expand(10_000, -1)).log_weight
    kl = (wider**2 + shift**2 - 1) / 2 - math.log(wider)
    significance.require_equal(mean_of(bound), case.log_evidence.item() - kl)


def test_which_parameters_are_whose():
    assert groups_of(one_layer()) == {
        "theta": ["weight", "bias", "prior_loc", "prior_log_scale"],
        "phi": ["guide_weight", "guide_bias", "guide_log_scale"],
        "shared": [],
    }
    for bottom_up in (False, True):
        groups = groups_of(two_layers(bottom_up=bottom_up))
        assert groups["shared"] == ["shared"]
        assert groups["theta"] == ["u_log_scale", "v_log_scale", "weight"]


def test_given_draws_are_used_by_every_program():
    case = discrete()
    latents = {name: v[None] for name, v in DISCRETE_STATES.items()}
    with given(latents):
        x = case.x.expand(12, -1)
        particles = ELBO(1).draw(case.model, case.guide, x)
    assert torch.equal(particles.latents["kind"], latents["kind"])
    # They are all there are: both programs' probabilities sum to 1.
    one = torch.ones(()).double()
    torch.testing.assert_close(particles.log_proposal.exp().sum(), one)
    torch.testing.assert_close(particles.log_latent_prior.exp().sum(), one)


def test_central_differences_take_each_row_by_itself():
    at = {"a": torch.tensor([[1.0, 2.0], [3.0, 4.0]]).double(), "b": torch.ones(2, 1).double()}
    found = central_differences(lambda p: (p["a"] ** 3).sum(1) * p["b"][:, 0].detach(), at)
    torch.testing.assert_close(found["a"], 3 * at["a"] ** 2)
    torch.testing.assert_close(found["b"], (at["a"] ** 3).sum(1, keepdim=True))


@pytest.mark.parametrize("hidden", [0.0, 1e-3, 1.0])
def test_a_value_that_detaches_has_a_gradient_of_something_else(hidden):
    at = torch.tensor([0.3, -0.7]).double().requires_grad_()

    def value(a):
        return a.sin().sum() + hidden * a.square().sum().detach()

    if hidden:
        with pytest.raises(AssertionError, match="derivative of it against a difference quotient"):
            require_gradient("it", value, at)
    else:
        require_gradient("it", value, at)
