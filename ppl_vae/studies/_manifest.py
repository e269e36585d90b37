"""How a study was carried out: what one needs to know to do it again."""

import importlib.metadata
import platform
import subprocess
import sys
from datetime import UTC, datetime
from typing import Any

import torch

from ppl_vae.data import Dataset
from ppl_vae.devices import resolve_device
from ppl_vae.studies._plan import Study

_PACKAGES = ("ppl_vae", "torch", "pyro-ppl", "numpy", "scipy", "arviz-stats")
_SECONDS = 10


def describe_study(
    study: Study, dataset: Dataset, device: str, command: str | None, engine: str
) -> dict[str, Any]:
    """The manifest: versions, machine, data, git revision of where one works, configurations."""
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "engine": engine,
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in _PACKAGES},
        },
        "platform": platform.platform(),
        "device": _device(device),
        "threads": study.resources.cpus,
        "git": _git(),
        "data": {
            "name": dataset.name,
            "sha256": dataset.fingerprint(),
            "num_train": len(dataset.train),
            "num_valid": len(dataset.valid),
            "num_test": len(dataset.test),
            "features": dataset.features,
            "image_shape": None if dataset.image_shape is None else list(dataset.image_shape),
            "feature_names": dataset.feature_names,
        },
        "seeds": list(study.seeds),
        "configs": {cell.name: cell.config_hash for cell in study.cells},
    }


def _device(name: str) -> str:
    device = resolve_device(name)
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device.type} ({platform.machine()})"


def _git() -> dict[str, Any] | None:
    """Revision of the repository that one works in, if it is one."""
    revision = _output("git", "rev-parse", "HEAD")
    if revision is None:
        return None
    return {"revision": revision, "dirty": bool(_output("git", "status", "--porcelain"))}


def _output(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def command_line() -> str:
    """The command that this process was started with, for people."""
    name, *arguments = sys.argv
    return " ".join([name.rsplit("/", 1)[-1], *arguments])
