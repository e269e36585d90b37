"""Figures: drawings on axes, their style, and figures of images and tables."""

from ppl_vae.names import names_of_stub

# matplotlib is imported with the first figure.
__getattr__, __dir__, __all__ = names_of_stub(__name__, __file__)
