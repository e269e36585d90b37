"""log p(x) itself, where the latents are few or finitely many."""

from ppl_vae.evidence.exact.enumeration import Enumeration
from ppl_vae.evidence.exact.quadrature import Quadrature

__all__ = ["Enumeration", "Quadrature"]
