"""What training data must be, checked before the first update."""

from collections.abc import Callable

import torch
from torch import Tensor

from ppl_vae.data.rows import require_lossless
from ppl_vae.particles import FirstRun, Programs, accepts_missing, first_run, require_rows
from ppl_vae.randomness import Stream, generator, seeded


def require_data(
    parts: dict[str, Tensor],
    programs: Programs,
    device: torch.device,
    seed: int,
) -> None:
    """Check that there are rows, without NaN unless that is a missing cell to the model.

    Args:
        parts: Name to data, for messages; ``train`` among them.
        programs: Their model is asked whether it takes missing cells, by its likelihoods.
        device: Where the model is.
        seed: Of the draw that the model is asked with.

    Raises:
        ValueError: If there are no rows or some hold what cannot be trained on; names the first.
    """
    missing = any(bool(x.isnan().any()) for x in parts.values())
    if missing:
        with seeded(seed, Stream.TRAINING):
            few = parts["train"][:2].to(device, programs.modules().dtype)
            nesting = programs.max_plate_nesting
            missing = accepts_missing(programs.model, few, max_plate_nesting=nesting)
    for name, x in parts.items():
        _require_rows(name, x, missing)


def _require_rows(name: str, x: Tensor, missing: bool) -> None:
    if len(x) == 0:
        raise ValueError(f"{name} holds no data.")
    bad = (x.isinf() if missing else ~x.isfinite()).reshape(len(x), -1).any(1)
    if bool(bad.any()):
        raise ValueError(
            f"{name} has {int(bad.sum())} rows with NaN or infinite values, the first at row "
            f"{int(bad.nonzero()[0])}: remove or fill them in, or leave missing cells out of the "
            "likelihood with ObservedDecoder."
        )


def fitting_rows(
    programs: Programs, train: Tensor, valid: Tensor | None, prepare: Callable[[Tensor], Tensor]
) -> tuple[FirstRun, Tensor | None]:
    """Programs that ran on training data, and both sets of rows in the type that they take.

    Args:
        programs: Model and guide.
        train: Training data.
        valid: Validation data.
        prepare: Makes of training data a small batch.

    Raises:
        ValueError: If rows would be rounded, or are no data of the model.
    """
    ran = first_run(programs, train, prepare, "train")
    nesting = max(programs.max_plate_nesting, ran.modules.max_plate_nesting)
    require_rows(programs.model, ran.batch, nesting, "train")
    if valid is None:
        return ran, None
    if valid.shape[1:] != train.shape[1:]:
        raise ValueError(
            f"valid has rows of shape {tuple(valid.shape[1:])}, train of {tuple(train.shape[1:])}: "
            "give both alike, rows first."
        )
    return ran, require_lossless(valid, ran.rows.dtype, "valid")


def fixed_subset(x: Tensor, size: int) -> Tensor:
    """At most ``size`` rows at random, the same ones for every run.

    Neighbouring rows are often alike, so the first ones would not do.
    """
    return x[torch.randperm(len(x), generator=generator(0, Stream.VALIDATION))[:size]]
