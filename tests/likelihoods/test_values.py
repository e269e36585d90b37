"""Impossible values are refused in one line that says what to do."""

import math
import re

import pytest
import torch
from torch import nn

from ppl_vae.likelihoods import (
    BetaDecoder,
    CategoricalDecoder,
    NegativeBinomialDecoder,
    PoissonDecoder,
    ZeroInflatedNegativeBinomialDecoder,
    ZeroInflatedPoissonDecoder,
)

COUNTS = [
    (PoissonDecoder(nn.Identity()), 1),
    (NegativeBinomialDecoder(nn.Identity(), 2.0), 1),
    (ZeroInflatedPoissonDecoder(nn.Identity()), 2),
    (ZeroInflatedNegativeBinomialDecoder(nn.Identity(), 2.0), 2),
]


def refusal(decoder, blocks, value):
    x = torch.full((2, 3), 0.5 if isinstance(decoder, BetaDecoder) else 1.0)
    x[1, 2] = value
    with pytest.raises(ValueError, match="likelihood takes") as caught:
        decoder(torch.zeros(2, 3 * blocks)).log_prob(x)
    assert re.fullmatch(r"[^\n]+", str(caught.value))
    return str(caught.value)


@pytest.mark.parametrize(("decoder", "blocks"), COUNTS)
@pytest.mark.parametrize("value", [-1.0, 0.5, math.inf])
def test_counts(decoder, blocks, value):
    message = refusal(decoder, blocks, value)
    assert f"takes counts 0, 1, 2, ..., got {value:g}" in message
    assert 'likelihood="normal"' in message


@pytest.mark.parametrize("value", [0.0, 1.0, -0.5])
def test_beta(value):
    message = refusal(BetaDecoder(nn.Identity()), 2, value)
    assert f"takes data strictly between 0 and 1, got {value:g}" in message
    assert 'likelihood="continuous-bernoulli"' in message


@pytest.mark.parametrize("value", [-1.0, 3.0, 0.5])
def test_categories(value):
    message = refusal(CategoricalDecoder(nn.Identity(), 3), 3, value)
    assert f"takes class indices 0, ..., 2, got {value:g}" in message


def test_under_two_categories():
    with pytest.raises(ValueError, match="categories must be 2 or more, got 1"):
        CategoricalDecoder(nn.Identity(), 1)


@pytest.mark.parametrize(("decoder", "blocks"), [*COUNTS, (BetaDecoder(nn.Identity()), 2)])
def test_a_missing_cell_is_named_as_such(decoder, blocks):
    message = refusal(decoder, blocks, math.nan)
    assert "NaN is a missing cell; wrap the decoder in ObservedDecoder" in message


def test_unchecked_where_validation_is_off():
    distribution = PoissonDecoder(nn.Identity())(torch.zeros(2, 3))
    distribution._validate_args = False
    assert distribution.log_prob(torch.full((2, 3), 0.5)).isfinite().all()
    assert distribution.expand(torch.Size([4, 2]))._validate_args is False
