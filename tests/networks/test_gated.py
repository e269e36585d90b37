import pytest
import torch

from ppl_vae.networks import GatedMLP, set_output_bias


def test_a_hidden_layer_is_the_stated_formula():
    net = GatedMLP(3, [5], 2)
    (layer, _), x = net.hidden, torch.randn(6, 3)
    (w, v), (b, c) = layer.weight.chunk(2), layer.bias.chunk(2)
    expected = (x @ w.T + b) * torch.sigmoid(x @ v.T + c)
    torch.testing.assert_close(net(x), net.output(expected))


def test_layers_follow_each_other():
    net = GatedMLP(3, [5, 4], 2)
    assert [layer.out_features for layer in net.hidden[::2]] == [10, 8]
    assert [layer.in_features for layer in net.hidden[::2]] == [3, 5]
    assert (net.output.in_features, net.output.out_features) == (4, 2)


def test_no_hidden_layers_are_linear():
    net = GatedMLP(3, [], 2)
    x, y = torch.randn(2, 4, 3)
    torch.testing.assert_close(net(x) + net(y), net(x + y) + net.output.bias)


def test_the_output_bias():
    net = GatedMLP(3, [4], 2)
    set_output_bias(net, torch.tensor([1.0, 2.0]))
    assert net.output.bias.tolist() == [1.0, 2.0]


@pytest.mark.parametrize("sizes", [(0, [3], 2), (3, [0], 2), (3, [], 0)])
def test_sizes_below_one(sizes):
    with pytest.raises(ValueError, match="layer sizes must be 1 or more"):
        GatedMLP(*sizes)
