"""What must be the same for a run that was stopped to go on from a file."""

import hashlib
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from ppl_vae.particles import Program, draw_particles
from ppl_vae.randomness import seeded

_ROUNDING = 1e-4


@final
@dataclass(frozen=True)
class RunIdentity:
    """Settings, data and parameters of a run.

    Attributes:
        settings: All settings, the seed and the kind of device in words.
        data: A hash of the data.
        probe: log-densities at fixed draws, which tell one set of parameters from another.
    """

    settings: str
    data: str
    probe: Tensor

    def require_same(self, where: str, metadata: dict[str, str], probe: Tensor) -> None:
        """Check what a file says of its run.

        Args:
            where: The file, for the message.
            metadata: With ``settings`` and ``data``.
            probe: As in the run that wrote the file.

        Raises:
            ValueError: If one of them differs.
        """
        for what, expected in (("settings", self.settings), ("data", self.data)):
            require_equal(where, what, metadata.get(what), expected)
        if not torch.allclose(probe, self.probe, rtol=_ROUNDING, atol=_ROUNDING, equal_nan=True):
            raise ValueError(
                f"{where} is of a run with other parameters of the model or the guide: delete it, "
                "or name another file."
            )


def identify(
    settings: str,
    model: Program,
    guide: Program,
    x: Tensor,
    device: torch.device,
    max_plate_nesting: int,
) -> RunIdentity:
    """The identity of a run on these programs and data."""
    with seeded(0), torch.no_grad():
        first = x[:1].to(device)
        particles = draw_particles(model, guide, first, max_plate_nesting=max_plate_nesting)
    parts = [particles.log_likelihood, particles.log_latent_prior, particles.log_proposal]
    return RunIdentity(settings, hash_of(x), torch.cat(parts).double().cpu())


def require_equal(where: str, what: str, found: str | None, expected: str) -> None:
    """Check one entry of a file.

    Raises:
        ValueError: If it differs.
    """
    if found != expected:
        raise ValueError(
            f"{where} is of a run with other {what}, {found}, this one has {expected}: delete it, "
            "or name another file."
        )


def hash_of(x: Tensor) -> str:
    """Of values, shape and type."""
    content = x.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{content.dtype} {tuple(content.shape)}".encode())
    digest.update(content.numpy().tobytes())
    return digest.hexdigest()
