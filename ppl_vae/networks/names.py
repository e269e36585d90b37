"""Networks by name."""

from typing import NamedTuple

from torch import nn

from ppl_vae.networks.conv import ConvDecoder, ConvEncoder
from ppl_vae.networks.gated import GatedMLP
from ppl_vae.networks.mlp import MLP
from ppl_vae.networks.residual import ResidualDecoder, ResidualEncoder


class Bodies(NamedTuple):
    """The networks of an encoder and of a decoder.

    Classes whose arguments are some of ``in_features``, ``hidden``, ``out_features``,
    ``activation``, ``image_shape``, and ones of their own, which both have and which are to be the
    same for both.
    """

    encoder: type[nn.Module]
    decoder: type[nn.Module]


NETWORKS: dict[str, Bodies] = {
    "mlp": Bodies(MLP, MLP),
    "gated": Bodies(GatedMLP, GatedMLP),
    "conv": Bodies(ConvEncoder, ConvDecoder),
    "resnet": Bodies(ResidualEncoder, ResidualDecoder),
}
