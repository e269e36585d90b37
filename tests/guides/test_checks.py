"""Every guide is what the rest of the package takes it for."""

import pytest
import torch
from torch import nn

from ppl_vae import guides
from ppl_vae.networks import MLP
from ppl_vae.testing import check_guide

from .cases import CASES

# Annotations are checked in every other test; here they would take most of the time.
pytestmark = pytest.mark.usefixtures("unchecked_types")


def test_every_guide_has_a_case():
    exported = {v for v in vars(guides).values() if isinstance(v, type)}
    modules = {kind for kind in exported if issubclass(kind, nn.Module)}
    points = {guides.DeltaEncoder, guides.SparseEncoder}
    before = {guides.TableInput, guides.CorruptedInput, guides.MaskNoise, guides.GaussianNoise}
    assert modules - points - before == {type(case.make()) for case in CASES}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_passes_the_check(case, significance):
    torch.manual_seed(0)
    check_guide(case.make(), case.x(), fresh=case.make, false_alarm=significance.rate)


def test_a_point_is_no_distribution_with_a_density():
    encoder = guides.DeltaEncoder(MLP(3, [4], 2))
    with pytest.raises(AssertionError, match="density normalises"):
        check_guide(encoder, torch.randn(4, 3))
