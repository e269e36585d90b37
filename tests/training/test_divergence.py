"""Training that ends below its start says so; other training does not."""

import re

import pytest
import torch
from programs import binary_vae

from ppl_vae.objectives import parse_objective
from ppl_vae.training._divergence import has_fallen

from .helpers import VALID, X, train

# Shaped, annealed, of the batch together, of an upper bound: what they maximise differs.
NAMES = [
    "elbo", "iwae:50", "dreg:5", "vimco:5", "rws:5", "tail-adaptive:5", "cubo:10,order=2",
    "tvo:10,num_terms=5", "tvo:10,num_terms=5,side=right", "mmd:5", "info-vae:5", "beta-tc:6",
    "elbo+beta:0", "elbo+beta:50", "elbo+linear:0.5", "elbo+cyclical:2", "elbo+warmup:30",
    "elbo+free-bits:3", "elbo+capacity:20", "reconstruction",
]  # fmt: skip
FAR = {"learning_rate": 1e6, "epochs": 4, "step": "torch", "valid": VALID}


def trained(name, vae=None, **settings):
    return train(vae or binary_vae(), objective=parse_objective(name), **settings)[1]


@pytest.mark.parametrize("name", NAMES)
def test_a_learning_rate_far_too_large_is_said(name):
    with pytest.warns(UserWarning, match="training has diverged") as caught:
        result = trained(name, **FAR)
    assert result.divergence in [str(each.message) for each in caught]
    number = r"-?[\d.]+(e\+\d+)?"
    assert re.fullmatch(
        rf"training has diverged: \w+\(.*\) is at -{number} nats on training data after epoch \d "
        rf"and was at {number} before the first update; (the parameters kept are those of epoch "
        r"\d; )?lower the learning rate, or clip gradients\.",
        result.divergence,
    )


@pytest.mark.parametrize("learning_rate", [1e-12, 1e-3, 0.05])
# At 0.05 the draws of CUBO leave the posterior: the bound on log p(x) is at -87, and was at -4.
@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("cubo")])
def test_other_training_is_not(name, learning_rate):
    """Any warning is an error here; a bound that falls, as of beta 0 or 50, is no divergence."""
    result = trained(name, learning_rate=learning_rate, epochs=8, step="torch", valid=VALID)
    assert result.divergence is None


@pytest.mark.parametrize("name", ["elbo", "elbo+free-bits:3"])
def test_a_moderate_fall_is_said(name):
    """Of a log-likelihood alone, too: each datum has its own, whatever the shaping couples."""
    with pytest.warns(UserWarning, match="training has diverged"):
        trained(name, learning_rate=3.0, epochs=6, step="torch", valid=VALID, keep="last")


def test_a_large_beta_lowers_the_bound_and_has_not_diverged():
    start = trained("elbo", learning_rate=1e-12, epochs=1)
    result = trained("elbo+beta:0", learning_rate=0.1, epochs=30)
    assert result.history.records[-1].bound < start.history.records[-1].bound - 5
    assert result.divergence is None


def test_overfitting_is_no_divergence():
    """The last epoch is far below the first on validation data."""
    settings = {"x": X[:4], "learning_rate": 0.05, "epochs": 300, "keep": "last", "step": "torch"}
    result = trained("elbo", valid=VALID, validate_every=100, **settings)
    validation = result.history.by_epoch("validation")
    assert validation[300] < validation[100] - 0.1
    assert result.divergence is None


def test_a_kept_epoch_before_is_named():
    with pytest.warns(UserWarning, match="training has diverged"):
        result = trained("elbo+beta:0", **FAR)
    before = f"the parameters kept are those of epoch {result.kept_epoch}; "
    assert result.kept_epoch < 4
    assert ("after epoch 4" in result.divergence) == (before in result.divergence)


def test_a_resumed_run_has_the_start_of_the_whole_one(tmp_path):
    with pytest.warns(UserWarning, match="training has diverged"):
        whole = trained("elbo", **FAR)
    with pytest.warns(UserWarning, match="training has diverged"):
        trained("elbo", **FAR | {"epochs": 2}, checkpoint=tmp_path / "run")
    torch.manual_seed(7)
    with pytest.warns(UserWarning, match="training has diverged"):
        resumed = trained("elbo", binary_vae(), **FAR, checkpoint=tmp_path / "run")
    assert resumed.divergence == whole.divergence


class TestHasFallen:
    START = torch.linspace(-5.0, -4.0, 40).double().unsqueeze(0)

    def test_the_same_and_higher_values_have_not(self):
        assert not has_fallen(self.START, self.START)
        assert not has_fallen(self.START, self.START + 1)

    def test_a_fall_within_the_spread_over_data_has_not(self):
        """By 0.1 nats for each of the data: certain, and too little to be a divergence."""
        assert not has_fallen(self.START, self.START - 0.1)
        assert has_fallen(self.START, self.START - 1)

    def test_a_fall_within_its_error_has_not(self):
        noise = 20 * torch.randn(1, 40, generator=torch.Generator().manual_seed(0)).double()
        noise -= noise.mean() + 1
        assert not has_fallen(self.START, self.START + noise)

    @pytest.mark.parametrize("poor", [1, 10, 40])
    def test_a_few_data_that_are_lost_have(self, poor):
        end = self.START.clone()
        end[0, :poor] = -1e12
        assert has_fallen(self.START, end)
        assert has_fallen(self.START, end, test=False)

    def test_without_a_test_only_far_falls_have(self):
        assert not has_fallen(self.START, self.START - 5, test=False)
        assert has_fallen(self.START, self.START - 100, test=False)

    def test_of_two_contexts_both_have_to(self):
        start = self.START.repeat(2, 1)
        one = torch.cat([self.START - 50, self.START])
        assert not has_fallen(start, one)
        assert has_fallen(start, start - 50)

    def test_one_datum(self):
        one = self.START[:, :1]
        assert not has_fallen(one, one - 10)
        assert has_fallen(one, one - 100)

    def test_infinite_values(self):
        infinite = torch.full_like(self.START, -torch.inf)
        assert has_fallen(self.START, infinite)
        assert not has_fallen(infinite, self.START)
        assert not has_fallen(infinite, infinite)


@pytest.mark.parametrize("steps", [2, 10])
def test_a_semi_amortised_step_is_judged_at_its_refined_guide(steps):
    """Refined q is where it climbs: the guide itself may get worse while training goes well."""
    settings = {"epochs": 4, "step": f"semi-amortised:{steps}", "valid": VALID}
    for learning_rate in (1e-12, 1e-3, 0.05):
        assert trained("elbo", learning_rate=learning_rate, **settings).divergence is None
    with pytest.warns(UserWarning, match="training has diverged"):
        assert trained("elbo", learning_rate=1e4, **settings).divergence is not None
