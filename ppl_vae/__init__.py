"""Variational autoencoders in Pyro, and what their log p(x) really is."""

from typing import Any

import lazy_loader

from ppl_vae.names import did_you_mean

__version__ = "0.2.0"

_load, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    """Import a name on its first use."""
    if name not in __all__:
        # Whoever looks for a dunder method asks whether it is there, and wants no advice.
        hint = "" if name.startswith("_") else did_you_mean(name, __all__).replace("'", "")
        raise AttributeError(f"no name {name!r} in {__name__}{hint and f'; {hint}'}")
    return _load(name)
