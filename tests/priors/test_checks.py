"""Every prior is what the rest of the package takes it for."""

import pytest
import torch
from torch import nn

from ppl_vae import priors
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
