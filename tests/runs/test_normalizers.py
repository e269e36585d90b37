"""The error of an estimated constant is found, wherever the prior is."""

import math

import pytest
import torch
from programs import binary_vae
from torch import nn

from ppl_vae.priors import EnergyPrior, LearnedAcceptRejectPrior, RBMPrior
from ppl_vae.runs import Normalizer, find_normalizers


def model_with(prior):
    vae = binary_vae()
    vae.prior = prior
    return vae.eval()


@pytest.mark.parametrize("prior", [EnergyPrior, LearnedAcceptRejectPrior])
def test_is_what_the_prior_states(prior):
    made = prior(2, (4,), evaluation_draws=500)
    nn.init.normal_(made.tilt.network.output.weight)
    (found,) = find_normalizers(model_with(made))
    assert (found.name, found.value, found.standard_error) == ("prior", *made.log_normalizer())
    assert found.standard_error > 0
    assert f"{found.value:.3f}" in str(found)
    assert f"{found.standard_error:.2g}" in str(found)


def test_more_draws_have_less_error():
    errors = []
    for draws in (500, 50_000):
        torch.manual_seed(0)
        prior = EnergyPrior(2, (4,), evaluation_draws=draws)
        nn.init.normal_(prior.tilt.network.output.weight)
        errors.append(find_normalizers(model_with(prior))[0].standard_error)
    assert errors[0] / errors[1] == pytest.approx(10, rel=0.5)


def test_a_machine_that_is_summed_has_none():
    assert find_normalizers(model_with(RBMPrior(4, 3))) == []
    (annealed,) = find_normalizers(model_with(RBMPrior(21, 22, chains=8, temperatures=5)))
    assert annealed.value == pytest.approx(43 * math.log(2), abs=0.5)
    assert annealed.standard_error > 0


class StatedPrior(nn.Module):
    """A prior of somebody else's, with a constant that it has estimated."""

    def __init__(self, stated):
        super().__init__()
        self.stated = stated

    def log_normalizer(self):
        return self.stated


def test_a_method_is_enough_to_be_found():
    (found,) = find_normalizers(model_with(StatedPrior((torch.tensor(1.5), 0.25))))
    assert (found.name, found.value, found.standard_error) == ("prior", 1.5, 0.25)
    assert str(found).startswith("not to be trusted: log Z of prior = 1.500")
    assert find_normalizers(model_with(StatedPrior((1.5, 0.0)))) == []


def test_a_method_that_returns_something_else_is_named():
    with pytest.raises(
        TypeError, match=r"log_normalizer\(\) of prior returned float, expected two"
    ):
        find_normalizers(model_with(StatedPrior(1.5)))


def test_too_few_effective_draws_have_no_error():
    """The tilted density stands seven standard deviations off, where no draw is."""
    prior = EnergyPrior(2, (), evaluation_draws=10_000)
    nn.init.constant_(prior.tilt.network.output.weight, 5.0)
    (found,) = find_normalizers(model_with(prior))
    assert math.isinf(found.standard_error)
    assert found.to_dict()["standard_error"] is None
    assert "too few effective draws" in str(found)


def test_an_error_that_is_no_number_is_not_known():
    (found,) = find_normalizers(model_with(StatedPrior((1.5, math.nan))))
    assert math.isinf(found.standard_error)
    assert Normalizer.from_dict(found.to_dict()) == found


def test_other_priors_have_none():
    assert find_normalizers(binary_vae(learned_prior=True)) == []
