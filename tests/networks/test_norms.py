"""Columns of linear layers that keep their norm."""

import copy

import pytest
import torch
from torch import nn

from ppl_vae.networks import MLP, hold_columns


def norms(network):
    return [
        torch.linalg.vector_norm(layer.weight, dim=0)
        for layer in network.modules()
        if isinstance(layer, nn.Linear)
    ]


def test_columns_have_norm_1_at_the_start_and_after_updates():
    torch.manual_seed(0)
    network = MLP(3, [4], 5)
    before = copy.deepcopy(network)
    hold_columns(network)
    for layer, old in zip((network.hidden[0], network.output),
                          (before.hidden[0], before.output), strict=True):  # fmt: skip
        expected = old.weight / torch.linalg.vector_norm(old.weight, dim=0)
        torch.testing.assert_close(layer.weight, expected)
    optimizer = torch.optim.SGD(network.parameters(), 0.5)
    start = network.output.weight.detach().clone()
    for _ in range(10):
        optimizer.zero_grad()
        (network(torch.randn(8, 3)) - 10).square().mean().backward()
        optimizer.step()
    assert not torch.allclose(network.output.weight, start)
    for each in norms(network):
        torch.testing.assert_close(each, torch.ones_like(each))


def test_small_codes_and_large_weights_are_no_way_out():
    """A free linear decoder makes any penalty on codes as small as one likes; a held one cannot."""
    torch.manual_seed(0)
    free = nn.Linear(3, 5, bias=False)
    codes = torch.randn(8, 3)
    scaled = copy.deepcopy(free)
    with torch.no_grad():
        scaled.weight.mul_(100)
    torch.testing.assert_close(free(codes), scaled(codes / 100))
    for layer in (free, scaled):
        hold_columns(layer)
    torch.testing.assert_close(free(codes), scaled(codes))


def test_a_network_without_linear_layers():
    with pytest.raises(ValueError, match="no linear layer"):
        hold_columns(nn.Conv2d(1, 1, 3))
