"""Models that a VAE is compared with and that no gradient of a bound trains.

Names are imported on first use: who trains a VAE has no use for them.
"""

from ppl_vae.names import names_of_stub

__getattr__, __dir__, __all__ = names_of_stub(__name__, __file__)
