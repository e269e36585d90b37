"""The guide on a sphere; its inference is in tests/priors/test_sphere.py."""

import torch
from torch import nn

from ppl_vae.guides import VonMisesFisherEncoder
from ppl_vae.networks import MLP


def test_reads_a_direction_and_a_concentration():
    network, x = MLP(5, [8], 4), torch.randn(6, 5)
    law, output = VonMisesFisherEncoder(network)(x), network(x)
    assert (law.batch_shape, law.event_shape) == ((6,), (3,))
    torch.testing.assert_close(law.loc, nn.functional.normalize(output[:, :3], dim=-1))
    torch.testing.assert_close(law.concentration, 3 * nn.functional.softplus(output[:, 3]))
    assert VonMisesFisherEncoder.num_outputs(3) == 4


def test_no_direction_is_some_direction():
    network = MLP(5, [], 4)
    nn.init.zeros_(network.output.weight)
    nn.init.zeros_(network.output.bias)
    law = VonMisesFisherEncoder(network)(torch.randn(6, 5))
    torch.testing.assert_close(law.loc, torch.eye(3)[0].expand(6, 3))
    law.rsample().sum().backward()
    assert all(p.grad.isfinite().all() for p in network.parameters())
    # And it moves from there.
    assert (network.output.bias.grad[1:3].abs() > 0).all()
