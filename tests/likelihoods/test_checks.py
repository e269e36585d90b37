"""Every likelihood is what the rest of the package takes it for."""

import pytest
import torch

from ppl_vae import likelihoods
from ppl_vae.data import Column
from ppl_vae.networks import MLP
from ppl_vae.testing import check_likelihood

from .cases import CASES

# Annotations are checked in every other test; here they would take most of the time.
pytestmark = pytest.mark.usefixtures("unchecked_types")

COLUMNS = (
    Column("height", "real"),
    Column("income", "positive"),
    Column("visits", "count"),
    Column("town", "categorical", ("a", "b", "c")),
    Column("grade", "ordinal", ("low", "mid", "high")),
)


def table():
    numbers = torch.randn(50, 2)
    codes = torch.randint(3, (50, 3))
    data = torch.stack([numbers[:, 0], numbers[:, 1].exp(), *codes.float().unbind(-1)], -1)
    network = MLP(2, [4], likelihoods.TableDecoder.num_outputs(5, COLUMNS))
    return likelihoods.TableDecoder(network, COLUMNS, data)


def pixels():
    network = MLP(2, [4], likelihoods.PixelCNNDecoder.num_outputs(6))
    return likelihoods.PixelCNNDecoder(network, (2, 3), width=4, layers=1, kernel=3)


def observed():
    return likelihoods.ObservedDecoder(likelihoods.NormalDecoder(MLP(2, [4], 3)))


# Of a class with several settings, the last.
DECODERS = {case.build: case for case in CASES}
OTHERS = [table, pixels, observed]


def test_every_likelihood_has_a_case():
    exported = {kind for name, kind in vars(likelihoods).items() if name.endswith("Decoder")}
    assert exported == {*DECODERS, *(type(make()) for make in OTHERS)}


@pytest.mark.parametrize("case", DECODERS.values(), ids=lambda case: case.name)
def test_it_passes_the_check(case, significance):
    z = case.z(4, dtype=torch.float32)
    report = check_likelihood(case.decoder(torch.float32), z, false_alarm=significance.rate)
    assert report.verdict == "passed"


@pytest.mark.parametrize("make", OTHERS, ids=lambda make: make.__name__)
def test_others_pass_the_check(make, significance):
    report = check_likelihood(make(), torch.randn(4, 2), false_alarm=significance.rate)
    assert report.verdict == "passed"
