import torch
from torch import nn

from ppl_vae.guides import DiagonalNormalEncoder
from ppl_vae.networks import MLP


def test_the_network_gives_loc_then_scale():
    network = MLP(4, [5], 6)
    q = DiagonalNormalEncoder(network)(x := torch.randn(7, 4))
    loc, unconstrained = network(x)[:, :3], network(x)[:, 3:]
    assert (q.batch_shape, q.event_shape, q.has_rsample) == ((7,), (3,), True)
    torch.testing.assert_close(q.mean, loc)
    torch.testing.assert_close(q.base_dist.scale, nn.functional.softplus(unconstrained) + 1e-6)


def test_the_scale_stays_positive_and_the_density_finite():
    class Constant(nn.Module):
        def forward(self, x):
            return torch.tensor([0.0, 0.0, -1e4, 1e4]).expand(len(x), 4)

    q = DiagonalNormalEncoder(Constant())(torch.zeros(2, 1))
    assert q.base_dist.scale.min() > 0
    assert q.log_prob(q.rsample()).isfinite().all()


def test_the_draws_carry_gradients_to_the_network():
    network = MLP(4, [5], 6)
    DiagonalNormalEncoder(network)(torch.randn(7, 4)).rsample().square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in network.parameters())
