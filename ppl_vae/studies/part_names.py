"""Priors, likelihoods, guides and networks by their names on the command line."""

from collections.abc import Callable
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from ppl_vae.guides import DiagonalNormalEncoder
from ppl_vae.likelihoods import BernoulliDecoder, NormalDecoder, TableDecoder
from ppl_vae.networks import NETWORKS
from ppl_vae.priors import LearnedNormal, StandardNormal
from ppl_vae.vae import Ladder

_LEAST_SCALE = 1e-3


def normal_decoder(
    network: nn.Module,
    data: Float[Tensor, "num_data features"],
    data_mean: Float[Tensor, " features"],
    scale: float | None = None,
) -> NormalDecoder:
    """A normal likelihood with a fixed standard deviation, or, with None, one learned for all."""
    if scale is not None:
        return NormalDecoder(network, scale, data_mean=data_mean)
    # Starting from the data's own spread, the first updates are not thrown far off.
    known = data[~data.isnan()] if bool(data.isnan().any()) else data
    start = max(known.std().item(), _LEAST_SCALE)
    return NormalDecoder(network, start, learn_scale=True, data_mean=data_mean)


Known = dict[str, Callable[..., Any]]

PRIORS: Known = {
    "normal": StandardNormal,
    "learned-normal": LearnedNormal,
}
LIKELIHOODS: Known = {
    "bernoulli": BernoulliDecoder,
    "normal": normal_decoder,
    "table": TableDecoder,
}
GUIDES: Known = {
    "normal": DiagonalNormalEncoder,
    "ladder": Ladder,
}
ENCODER_NETWORKS: Known = {name: bodies.encoder for name, bodies in NETWORKS.items()}
DECODER_NETWORKS: Known = {name: bodies.decoder for name, bodies in NETWORKS.items()}
PARTS: dict[str, Known] = {
    "--prior": PRIORS,
    "--likelihood": LIKELIHOODS,
    "--guide": GUIDES,
    "--network": ENCODER_NETWORKS,
}
"""What each option of the command line chooses from."""
