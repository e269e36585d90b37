"""Every prior is what the rest of the package takes it for."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from ppl_vae import priors
from ppl_vae.particles import ChunkSize, Programs, evaluation
from ppl_vae.testing import check_prior

from .cases import CASES

# Annotations are checked in every other test; here they would take most of the time.
pytestmark = pytest.mark.usefixtures("unchecked_types")


def test_every_prior_has_a_case():
    exported = {v for v in vars(priors).values() if isinstance(v, type)}
    modules = {kind for kind in exported if issubclass(kind, nn.Module)}
    assert modules == {type(case.make()) for case in CASES}


# Training rows made up for the check are no exemplars.
@pytest.mark.filterwarnings("ignore:no row of this batch is an exemplar")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_passes_the_check(case, significance):
    torch.manual_seed(0)
    report = check_prior(
        case.make(), fresh=case.make, log_error=case.log_error, false_alarm=significance.rate
    )
    assert report.verdict == "passed"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_it_keeps_is_no_part_of_its_identity(case):
    """A prior may keep values that its parameters give; a model is the same before and after."""
    prior, x = case.make().eval(), torch.zeros(3, 1)

    def guide(x):
        with pyro.plate("data", len(x)):
            return pyro.sample("z", prior())

    def model(x):
        loc = guide(x).sum(-1, keepdim=True)
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    def parameters():
        with evaluation(Programs(model, guide), x, ChunkSize(1)) as opened:
            return opened.identity("", seed=0).parameters

    assert parameters() == parameters()
