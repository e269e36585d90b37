"""Variational autoencoders as Pyro programs: one latent layer, or a hierarchy of them."""

from ppl_vae.vae.hierarchy import HierarchicalVAE
from ppl_vae.vae.inference import BottomUp, Ladder
from ppl_vae.vae.one_layer import VAE

__all__ = ["VAE", "BottomUp", "HierarchicalVAE", "Ladder"]
