import math

import pytest
import torch
from torch import nn

from ppl_vae.networks import MLP, ObservedInput

X = torch.tensor([[1.0, math.nan, -2.0], [math.nan, math.nan, math.nan]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zeros_for_missing_cells(dtype):
    found = ObservedInput(nn.Identity())(X.to(dtype))
    assert found.tolist() == [[1, 0, -2], [0, 0, 0]]
    assert found.dtype == dtype


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_mask_behind_them(dtype):
    found = ObservedInput(nn.Identity(), mask=True)(X.to(dtype))
    assert found.tolist() == [[1, 0, -2, 1, 0, 1], [0] * 6]
    assert found.dtype == dtype


@pytest.mark.parametrize("mask", [False, True])
def test_the_network_takes_so_many_inputs(mask):
    network = MLP(ObservedInput.num_inputs(3, mask), [4], 5)
    wrapped = ObservedInput(network, mask=mask)
    output = wrapped(X.expand(7, 2, 3))
    assert output.shape == (7, 2, 5)
    output.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())


def test_infinity_is_no_missing_cell():
    assert ObservedInput(nn.Identity())(torch.tensor([math.inf])).item() == math.inf
