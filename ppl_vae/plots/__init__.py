"""Figures: drawings on axes, how they look, and those of images and tables."""

import lazy_loader as lazy

# matplotlib is imported with the first figure.
__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
