"""Variational autoencoders in Pyro, and what their log p(x) really is."""

import warnings
from typing import Any

from ppl_vae._renamed import RENAMED
from ppl_vae.names import did_you_mean, names_of_stub

__version__ = "0.2.0"

_load, __dir__, __all__ = names_of_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    """Import a name on its first use."""
    if name in RENAMED:
        new = RENAMED[name]
        message = f"ppl_vae.{name} is called {new} now; the old name goes with the next version."
        warnings.warn(message, DeprecationWarning, stacklevel=2)
        return _load(new)
    if name not in __all__:
        # Whoever looks for a dunder method asks whether it is there, and wants no advice.
        hint = "" if name.startswith("_") else did_you_mean(name, __all__).replace("'", "")
        raise AttributeError(f"no name {name!r} in {__name__}{hint and f'; {hint}'}")
    return _load(name)
