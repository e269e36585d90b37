"""Data sets with fixed, stated splits, and their binarisation.

Names are imported on first use, so that listing `DATASET_NAMES` does not import torch.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
