"""What training data must be, checked before the first update."""

import torch
from torch import Tensor

from ppl_vae.particles import Program, accepts_missing
from ppl_vae.randomness import Stream, generator, seeded


def require_data(
    parts: dict[str, Tensor],
    model: Program,
    device: torch.device,
    *,
    max_plate_nesting: int,
    seed: int,
) -> None:
    """Check that there are rows, without NaN unless that is a missing cell to the model.

    Args:
        parts: Name to data, for messages; ``train`` among them.
        model: Is asked whether it takes missing cells, by its likelihoods.
        device: Where the model is.
        max_plate_nesting: Plate dimensions the model uses, the data plate included.
        seed: Of the draw that the model is asked with.

    Raises:
        ValueError: If there are no rows or some hold what cannot be trained on; names the first.
    """
    missing = any(bool(x.isnan().any()) for x in parts.values())
    if missing:
        with seeded(seed, Stream.TRAINING):
            few = parts["train"][:2].to(device)
            missing = accepts_missing(model, few, max_plate_nesting=max_plate_nesting)
    for name, x in parts.items():
        _require_rows(name, x, missing)


def _require_rows(name: str, x: Tensor, missing: bool) -> None:
    if len(x) == 0:
        raise ValueError(f"{name} holds no data.")
    bad = (x.isinf() if missing else ~x.isfinite()).flatten(1).any(1)
    if bool(bad.any()):
        raise ValueError(
            f"{name} has {int(bad.sum())} rows with NaN or infinite values, the first at row "
            f"{int(bad.nonzero()[0])}: remove or fill them in, or leave missing cells out of the "
            "likelihood with ObservedDecoder."
        )


def fixed_subset(x: Tensor, size: int) -> Tensor:
    """At most ``size`` rows at random, the same ones for every run.

    Neighbouring rows are often alike, so the first ones would not do.
    """
    return x[torch.randperm(len(x), generator=generator(0, Stream.VALIDATION))[:size]]
