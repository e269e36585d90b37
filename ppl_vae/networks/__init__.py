"""Network bodies: tensors in, tensors out, any leading shape."""

from torch import nn

from ppl_vae.components import Kind
from ppl_vae.networks._conv import ConvDecoder, ConvEncoder, ResidualDecoder, ResidualEncoder
from ppl_vae.networks._mlp import (
    ACTIVATIONS,
    MLP,
    FeatureBias,
    GatedMLP,
    ObservedInput,
    set_output_bias,
)
from ppl_vae.networks._norms import UnitColumns, hold_columns

_CONTEXT = frozenset({"in_features", "out_features", "hidden", "activation", "image_shape"})
ENCODER_NETWORKS = Kind(
    "network",
    {"mlp": MLP, "gated": GatedMLP, "conv": ConvEncoder, "resnet": ResidualEncoder},
    base=nn.Module,
    context=_CONTEXT,
)
"""Networks of an encoder by name."""
DECODER_NETWORKS = Kind(
    "network",
    {"mlp": MLP, "gated": GatedMLP, "conv": ConvDecoder, "resnet": ResidualDecoder},
    base=nn.Module,
    context=_CONTEXT,
)
"""Networks of a decoder by the same names, which take the same arguments of their own."""

__all__ = [
    "ACTIVATIONS",
    "DECODER_NETWORKS",
    "ENCODER_NETWORKS",
    "MLP",
    "ConvDecoder",
    "ConvEncoder",
    "FeatureBias",
    "GatedMLP",
    "ObservedInput",
    "ResidualDecoder",
    "ResidualEncoder",
    "UnitColumns",
    "hold_columns",
    "set_output_bias",
]
