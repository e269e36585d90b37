import math

import pytest
import torch
from torch import nn

from ppl_vae.likelihoods import (
    CategoricalDecoder,
    LaplaceDecoder,
    NegativeBinomialDecoder,
    NormalDecoder,
    Positive,
    StudentTDecoder,
)
from ppl_vae.likelihoods._outputs import column_spreads

START = torch.tensor([1.0, 2.0, 4.0])


def test_starts_where_it_is_told():
    assert Positive("scale", 0.5, START)().item() == 0.5
    shared = Positive("scale", "shared", START)()
    torch.testing.assert_close(shared, torch.tensor(math.sqrt(7)))
    torch.testing.assert_close(Positive("scale", "feature", START)(), START)
    read = Positive("scale", "network", START)(torch.zeros(5, 3))
    torch.testing.assert_close(read, START.expand(5, 3))


@pytest.mark.parametrize("source", ["shared", "feature", "network"])
def test_has_a_floor_and_no_ceiling(source):
    positive = Positive("scale", source, START)
    free = None
    for size, factor in ((-200.0, 1e-3), (1000.0, 999.5)):
        if source == "network":
            free = torch.full((3,), size)
        else:
            nn.init.constant_(positive.free, size)
        start = positive.start
        torch.testing.assert_close(positive(free).detach(), factor * start, rtol=1e-3, atol=0)


def test_what_is_learned_and_what_is_kept():
    learned = {s: len(list(Positive("s", s, START).parameters())) for s in (1.0, "network")}
    assert learned == {1.0: 0, "network": 0}
    for source in ("shared", "feature"):
        assert [name for name, _ in Positive("s", source, START).named_parameters()] == ["free"]
    assert "start" in Positive("s", 1.0, START).state_dict()


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_impossible_numbers(value):
    for build, name in [
        (LaplaceDecoder, "scale"),
        (NegativeBinomialDecoder, "inverse_dispersion"),
        (StudentTDecoder, "scale"),
    ]:
        with pytest.raises(ValueError, match=f"{name} must be positive and finite, got"):
            build(nn.Identity(), value)
    with pytest.raises(ValueError, match="df must be finite and greater than 1, got"):
        StudentTDecoder(nn.Identity(), df=value)


def test_no_mean_with_one_degree_of_freedom():
    with pytest.raises(ValueError, match="df must be finite and greater than 1, got 1"):
        StudentTDecoder(nn.Identity(), df=1)


def test_a_value_for_each_feature_needs_their_number():
    with pytest.raises(ValueError, match="scale 'feature' has one value a feature: give data"):
        NormalDecoder(nn.Identity(), "feature")


def test_the_network_has_to_fit():
    with pytest.raises(ValueError, match=r"has no bias of shape \(6,\)"):
        NormalDecoder(nn.Linear(2, 3), "network", data=torch.randn(9, 3))
    with pytest.raises(ValueError, match=r"has 3 outputs, expected 2 for each feature"):
        NormalDecoder(nn.Linear(2, 3), "network")(torch.zeros(1, 2))


def test_spreads():
    data = torch.tensor([[0.1, 0.0, math.nan, 5.0], [0.1, 2.0, math.nan, math.nan]])
    # A constant column, one of spread 1, an empty one, one with a single cell.
    torch.testing.assert_close(column_spreads(data), torch.ones(4))
    torch.testing.assert_close(column_spreads(3 * data), torch.full((4,), 3.0))
    assert column_spreads(torch.zeros(4, 2)).tolist() == [1, 1]
    assert column_spreads(None).item() == 1
    # A year has a spread, small as it is beside its mean.
    years = torch.tensor([[2000.0], [2001.0]])
    assert column_spreads(years).item() == 0.5


def test_probabilities_start_at_the_frequencies_of_what_is_there():
    data = torch.tensor([[0.0, 2.0], [0.0, math.nan], [1.0, 2.0]])
    network = nn.Linear(1, 6)
    decoder = CategoricalDecoder(network, 3, data=data)
    nn.init.zeros_(network.weight)
    found = decoder(torch.zeros(1, 1)).base.probs[0]
    expected = torch.tensor([[3 / 6, 2 / 6, 1 / 6], [1 / 5, 1 / 5, 3 / 5]])
    torch.testing.assert_close(found, expected)
