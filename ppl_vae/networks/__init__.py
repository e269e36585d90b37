"""Network bodies: tensors in, tensors out, any leading shape."""

from ppl_vae.networks.activations import ACTIVATIONS
from ppl_vae.networks.conv import ConvDecoder, ConvEncoder
from ppl_vae.networks.gated import GatedMLP
from ppl_vae.networks.mlp import MLP
from ppl_vae.networks.names import NETWORKS, Bodies
from ppl_vae.networks.observed import ObservedInput
from ppl_vae.networks.output import FeatureBias, set_output_bias
from ppl_vae.networks.residual import ResidualDecoder, ResidualEncoder

__all__ = [
    "ACTIVATIONS",
    "MLP",
    "NETWORKS",
    "Bodies",
    "ConvDecoder",
    "ConvEncoder",
    "FeatureBias",
    "GatedMLP",
    "ObservedInput",
    "ResidualDecoder",
    "ResidualEncoder",
    "set_output_bias",
]
