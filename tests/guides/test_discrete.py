"""Guides of discrete latents."""

import pytest
import torch

from ppl_vae.guides import BernoulliEncoder, CategoricalEncoder
from ppl_vae.networks import MLP


def test_bernoulli():
    network, x = MLP(5, [4], 3), torch.randn(6, 5)
    law = BernoulliEncoder(network)(x)
    assert (law.batch_shape, law.event_shape) == ((6,), (3,))
    torch.testing.assert_close(law.mean, torch.sigmoid(network(x)))
    assert BernoulliEncoder.num_outputs(3) == 3


def test_categorical():
    network, x = MLP(5, [4], 6), torch.randn(6, 5)
    law = CategoricalEncoder(network, 3)(x)
    assert (law.batch_shape, law.event_shape) == ((6,), (6,))
    expected = torch.softmax(network(x).reshape(6, 2, 3), -1).flatten(1)
    torch.testing.assert_close(law.mean, expected)
    assert CategoricalEncoder.num_outputs(6) == 6


def test_categorical_needs_classes():
    with pytest.raises(ValueError, match="classes must be 2 or more, got 1"):
        CategoricalEncoder(MLP(5, [4], 6), 1)
