"""784 observed and 50 latent dimensions, as images have them: within 0.02 nats of the truth."""

import torch

from ppl_vae.evidence import AnnealedImportanceSampling, BidirectionalMonteCarlo
from ppl_vae.linear_gaussian import LinearGaussian

from .cases import run

NATS = 0.02


def test_a_sandwich_of_images_size():
    exact = LinearGaussian.random(784, 50, seed=2)
    model = LinearGaussian(exact.weight.float(), exact.bias.float())
    ais = AnnealedImportanceSampling(400, 256, 2, "guide", "linear", rows=256)
    found = run(
        BidirectionalMonteCarlo(ais, num_simulated=1), torch.zeros(1, 784), model.mean_field_vae()
    )
    truth = exact.log_evidence(found.x.double()).detach()
    for side in (found.lower, found.upper):
        assert side.standard_error.max() < NATS / 2
        assert (side.log_prob - truth).abs().max() < NATS
    # Of either side, 4 standard errors: one side of an interval that holds in 9999 of 10000.
    low = found.lower.log_prob - 4 * found.lower.standard_error
    high = found.upper.log_prob + 4 * found.upper.standard_error
    assert ((low < truth) & (truth < high)).all()
    assert abs(found.gap) < NATS
