"""Models that a VAE is compared with and that no gradient of a bound trains."""

from ppl_vae.baselines._base import Baseline
from ppl_vae.baselines._chains import Chains
from ppl_vae.baselines._gan import GAN, WassersteinGAN
from ppl_vae.baselines._gmmn import GMMN
from ppl_vae.baselines._implicit import ImplicitModel, implicit_networks
from ppl_vae.baselines._kernel_density import kernel_density_estimate
from ppl_vae.baselines._linear import FactorAnalysis, LinearGenerator
from ppl_vae.baselines._partition import PartitionEstimate, Side
from ppl_vae.baselines._rbm import RBM
from ppl_vae.baselines._train import train

__all__ = [
    "GAN",
    "GMMN",
    "RBM",
    "Baseline",
    "Chains",
    "FactorAnalysis",
    "ImplicitModel",
    "LinearGenerator",
    "PartitionEstimate",
    "Side",
    "WassersteinGAN",
    "implicit_networks",
    "kernel_density_estimate",
    "train",
]
