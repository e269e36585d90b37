"""Models with known log p(x), posterior or gradients, for tests and the gradient bench."""

from ppl_vae.reference_models._discrete import (
    DISCRETE_STATES,
    BinaryAutoencoder,
    binary,
    discrete,
    discrete_data,
)
from ppl_vae.reference_models._layers import exact_chain, two_layers, wide_chain
from ppl_vae.reference_models._linear_gaussian import LinearGaussianProblem, exact, one_layer
from ppl_vae.reference_models._replicated import (
    Parameters,
    ReferenceModel,
    ascent_direction,
    given,
    leaves_of,
    same_draws,
)

__all__ = [
    "DISCRETE_STATES",
    "BinaryAutoencoder",
    "LinearGaussianProblem",
    "Parameters",
    "ReferenceModel",
    "ascent_direction",
    "binary",
    "discrete",
    "discrete_data",
    "exact",
    "exact_chain",
    "given",
    "leaves_of",
    "one_layer",
    "same_draws",
    "two_layers",
    "wide_chain",
]
