import pytest
import torch
from torch import nn

from ppl_vae.networks import ACTIVATIONS, MLP, set_output_bias


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_mlp_is_the_stated_formula(activation):
    net = MLP(3, [5, 4], 2, activation)
    first, second = (layer for layer in net.hidden if isinstance(layer, nn.Linear))
    act = ACTIVATIONS[activation]()
    x = torch.randn(6, 3)
    expected = net.output(act(second(act(first(x)))))
    torch.testing.assert_close(net(x), expected)
    assert (first.out_features, second.out_features, net.output.out_features) == (5, 4, 2)


def test_mlp_without_hidden_layers_is_linear():
    net = MLP(3, [], 2)
    x, y = torch.randn(2, 4, 3)
    torch.testing.assert_close(net(x) + net(y), net(x + y) + net.output.bias)
    assert len(list(net.parameters())) == 2


@pytest.mark.parametrize("shape", [(), (1,), (7,), (2, 7), (2, 3, 7)])
def test_mlp_maps_the_last_dimension(shape):
    assert MLP(3, [4], 2)(torch.randn(*shape, 3)).shape == (*shape, 2)


@pytest.mark.parametrize("sizes", [(0, [3], 2), (3, [0], 2), (3, [], 0), (3, [-1], 2)])
def test_mlp_refuses_sizes_below_one(sizes):
    with pytest.raises(ValueError, match="layer sizes must be 1 or more"):
        MLP(*sizes)


def test_mlp_refuses_an_unknown_activation():
    with pytest.raises(ValueError, match=r"unknown activation 'sine': use tanh, relu"):
        MLP(3, [4], 2, "sine")


def test_output_bias_of_any_network_that_ends_in_a_linear_layer():
    net = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 4))
    bias = torch.arange(4.0)
    before = net[0].bias.clone()
    set_output_bias(net, bias)
    assert torch.equal(net[2].bias, bias)
    assert torch.equal(net[0].bias, before)
    assert net[2].bias.requires_grad


@pytest.mark.parametrize(
    "net",
    [nn.Tanh(), nn.Linear(2, 4, bias=False), nn.Linear(2, 5)],
    ids=["none", "no bias", "size"],
)
def test_output_bias_that_cannot_be_set(net):
    with pytest.raises(ValueError, match=r"no bias of shape \(4,\)"):
        set_output_bias(net, torch.zeros(4))
