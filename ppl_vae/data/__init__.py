"""Data sets with fixed, stated splits, and their binarisation.

Names are imported on first use, so that listing `DATASET_NAMES` does not import torch.
"""

from ppl_vae.names import names_of_stub

__getattr__, __dir__, __all__ = names_of_stub(__name__, __file__)
