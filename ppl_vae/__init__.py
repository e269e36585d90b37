"""Variational autoencoders in Pyro, and what their log p(x) really is."""

import warnings
from pathlib import Path
from typing import Any

from ppl_vae._renamed import RENAMED
from ppl_vae.names import did_you_mean, face_with, names_of_stub

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
        hint = "" if name.startswith("_") else _hint(name)
        raise AttributeError(f"no name {name!r} in {__name__}{hint and f'; {hint}'}")
    return _load(name)


def _hint(name: str) -> str:
    """Where a name is that is not here, or the nearest one that is."""
    module = face_with(name, Path(__file__).parent)
    if module:
        return f"it is {__name__}.{module}.{name}"
    return did_you_mean(name, __all__).replace("'", "")
