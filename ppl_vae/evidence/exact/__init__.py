"""log p(x) itself, where the latents are few or finitely many."""

from ppl_vae.evidence.exact._enumeration import Enumeration
from ppl_vae.evidence.exact._quadrature import Quadrature

__all__ = ["Enumeration", "Quadrature"]
