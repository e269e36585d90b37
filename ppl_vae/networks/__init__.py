"""Network bodies: tensors in, tensors out, any leading shape."""

from ppl_vae.networks.activations import ACTIVATIONS
from ppl_vae.networks.mlp import MLP
from ppl_vae.networks.output import set_output_bias

__all__ = ["ACTIVATIONS", "MLP", "set_output_bias"]
