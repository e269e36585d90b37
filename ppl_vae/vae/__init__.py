"""Variational autoencoders as Pyro programs: one latent layer, or a hierarchy of them."""

from ppl_vae.vae._hierarchy import HierarchicalVAE
from ppl_vae.vae._inference import BottomUp, Ladder
from ppl_vae.vae._one_layer import VAE

__all__ = ["VAE", "BottomUp", "HierarchicalVAE", "Ladder"]
