"""Plain values in a JSON file that says whether it is as it was written."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ppl_vae.files import write_atomically
from ppl_vae.identity import hash_values

_SEAL = "sha256"


def write_sealed(path: Path, values: Mapping[str, Any]) -> None:
    """Write values as JSON, atomically, with a hash of all of them.

    Raises:
        OSError: If the file cannot be written; an earlier one stays whole.
    """
    # Through JSON, so that what is hashed is what is read.
    plain = json.loads(json.dumps(dict(values)))
    sealed = {**plain, _SEAL: hash_values(plain)}
    write_atomically(path, json.dumps(sealed, indent=2) + "\n")


def read_sealed(path: Path, remedy: str) -> dict[str, Any]:
    """The values that :func:`write_sealed` wrote.

    Args:
        path: The file.
        remedy: What to do where it is damaged, for the message.

    Raises:
        ValueError: If the file is not as it was written; names it.
    """
    try:
        values = json.loads(path.read_text())
        if not isinstance(values, dict):
            raise TypeError("no mapping")
        if values.pop(_SEAL, None) != hash_values(values):
            raise ValueError("it is not as it was written: SHA-256 differs")
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}): {remedy}.") from error
    return values
