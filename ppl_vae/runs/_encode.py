"""Codes and reconstructions of data, row by row."""

import math
import os
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae import data  # for its names of tables, which import pandas at their first use: 1 s
from ppl_vae.names import require_least
from ppl_vae.particles import ChunkSize, Particles, Programs, evaluation
from ppl_vae.randomness import Stream, seeded
from ppl_vae.runs._run import Run, Split

if TYPE_CHECKING:
    import pandas as pd

_ROWS = 50_000
"""Particles times rows that are decoded at once."""
_ACTIVE = 0.1
"""Share of a datum's largest code above which a code of it counts as active."""


def encode_run(
    run: Run,
    *,
    split: Split = "test",
    limit: int | None = None,
    file: str | os.PathLike[str] | None = None,
    num_draws: int = 1,
    seed: int = 0,
) -> "pd.DataFrame":
    """Codes of data: mean, standard deviation and draws of every latent site under q(z|x).

    One row a datum, with three columns a site, each entry a list: ``z_mean`` and ``z_sd`` of shape
    (latent,), ``z_draws`` of shape (draws, latent). They are those of the guide's distribution; of
    a layer that follows another, over the draws of that one: ``E z = E E(z|below)``, ``Var z = E
    Var(z|below) + Var E(z|below)``. A distribution without moments has those of its draws.

    Args:
        run: A trained run.
        split: The data to encode.
        limit: At most so many of them, a fixed random subset.
        file: A file of other rows, in place of a split.
        num_draws: Draws of each datum.
        seed: Seed of the draws.

    Raises:
        ValueError: If num_draws is less than 1, or the model has no guide of its own.
    """
    # Here, not above: it takes longer to import than all else that a run needs.
    import pandas as pd

    require_least(1, num_draws=num_draws)
    columns: dict[str, list[Any]] = {}
    for part in _draws(run, split, limit, file, num_draws, seed):
        for name, z in part.latents.items():
            mean, sd = _moments(part.guide[name], z)
            # Draws of a datum side by side: data come first in a table.
            found = {"mean": mean, "sd": sd, "draws": z.movedim(0, 1)}
            for kind, values in found.items():
                columns.setdefault(f"{name}_{kind}", []).extend(values.tolist())
    return pd.DataFrame(columns)


def reconstruct_run(
    run: Run,
    *,
    split: Split = "test",
    limit: int | None = None,
    file: str | os.PathLike[str] | None = None,
    num_draws: int = 1,
    seed: int = 0,
) -> "pd.DataFrame":
    """Reconstructions of data: the mean of p(x|z) over draws z ~ q(z|x), in the data's own units.

    One row a datum: its columns, of a table under their names; a column of categories has its most
    frequent draw. Then ``squared_error``, the sum over columns of numbers in the units the model
    was trained in, and ``log_likelihood``, the mean of log p(x|z) in nats.

    Args:
        run: A trained run.
        split: The data to reconstruct.
        limit: At most so many of them, a fixed random subset.
        file: A file of other rows, in place of a split.
        num_draws: Draws of z of each datum.
        seed: Seed of the draws.

    Raises:
        ValueError: If num_draws is less than 1, or the model has no guide of its own.
    """
    import pandas as pd

    require_least(1, num_draws=num_draws)
    schema, rebuilt = run.data.schema, []
    coded = [place for place, each in enumerate(schema.columns or ()) if each.kind in data.CODED]
    errors, likelihoods = [], []
    x = run.rows(split, limit, file).x
    first = 0
    for part in _draws(run, split, limit, file, num_draws, seed):
        with torch.no_grad(), seeded(seed, Stream.SAMPLING, first):
            likelihood = run.vae.decoder(part.latents[run.vae.bottom])
            mean = likelihood.mean.mean(0).float()
            if coded:
                # A mean of codes is no code.
                mean[:, coded] = likelihood.sample().float()[..., coded].mode(0).values
        given = torch.as_tensor(x[first : first + len(mean)]).to(mean)
        first += len(mean)
        residual = (given - mean).square()
        residual[:, coded] = math.nan
        errors += residual.nansum(-1).tolist()
        likelihoods += part.log_likelihood.mean(0).tolist()
        rebuilt.append(mean.cpu())
    values = schema.restore(torch.cat(rebuilt).numpy())
    if schema.columns:
        table = data.decode_table(values, schema.columns)
    else:
        names = schema.feature_names or [f"x{number}" for number in range(values.shape[1])]
        table = pd.DataFrame(values, columns=list(names))
    return table.assign(squared_error=errors, log_likelihood=likelihoods)


def describe_codes(run: Run, x: Any, *, seed: int = 0) -> dict[str, float]:
    """Reconstruction error and sparsity of codes, means over data: a run's ``codes`` in a study.

    ``squared_error`` sums over features; ``log_likelihood`` is log p(x|z) in nats;
    ``active_share`` and ``hoyer`` are those of :func:`sparsity`, of the sites' means together.

    Args:
        run: A trained run.
        x: Data.
        seed: Seed of the draws.
    """
    squared, likelihood, codes = [], [], []
    programs = Programs(run.vae.model, run.vae.guide)
    with (
        evaluation(programs, x, ChunkSize(1, _ROWS), device=run.device) as look,
        torch.no_grad(),
        seeded(seed, Stream.SAMPLING),
    ):
        for rows, _ in look.chunks():
            part = programs.draw(rows, 1)
            mean = run.vae.decoder(part.latents[run.vae.bottom]).mean[0]
            squared.append((rows - mean).square().nansum(-1))
            likelihood.append(part.log_likelihood[0])
            moments = [_moments(part.guide[name], z)[0] for name, z in part.latents.items()]
            codes.append(torch.cat(moments, -1))
    return {
        "squared_error": torch.cat(squared).double().mean().item(),
        "log_likelihood": torch.cat(likelihood).double().mean().item(),
        **sparsity(torch.cat(codes)),
    }


def sparsity(codes: Float[Tensor, "data codes"]) -> dict[str, float]:
    """Sparsity of codes, means over data.

    ``active_share`` is the share of codes whose size is more than a tenth of the datum's largest.
    ``hoyer`` is ``(sqrt(n) - |z|_1 / |z|_2) / (sqrt(n) - 1)`` of n codes: 0 where all are of one
    size, 1 where one alone is not 0; NaN for one code.

    References:
        Hoyer, 2004, Non-negative matrix factorization with sparseness constraints.
    """
    sizes = codes.double().abs()
    largest = sizes.amax(-1, keepdim=True)
    active = ((sizes > _ACTIVE * largest) & (sizes > 0)).double().mean().item()
    root = math.sqrt(codes.shape[-1])
    # Codes that are all 0 have no direction: they are as sparse as can be.
    ratio = (sizes.sum(-1) / torch.linalg.vector_norm(sizes, dim=-1)).nan_to_num(nan=1.0)
    hoyer = ((root - ratio) / (root - 1)).mean().item() if root > 1 else math.nan
    return {"active_share": active, "hoyer": hoyer}


def _draws(
    run: Run,
    split: Split,
    limit: int | None,
    file: str | os.PathLike[str] | None,
    count: int,
    seed: int,
) -> list[Particles]:
    """Particles of the rows, chunk by chunk."""
    if not run.config.model.kind.encodes:
        raise ValueError(
            f"model {run.config.model.name} has no encoder, and its guide says nothing of x: codes "
            "and reconstructions are of models that have one."
        )
    programs = Programs(run.vae.model, run.vae.guide)
    size = ChunkSize(count, cpu=_ROWS, gpu=_ROWS, whole=True)
    rows = run.rows(split, limit, file)
    with (
        evaluation(programs, rows, size, device=run.device) as look,
        torch.no_grad(),
        seeded(seed, Stream.SAMPLING),
    ):
        return [programs.draw(part, count) for part, _ in look.chunks()]


def _moments(
    guide: Any, z: Float[Tensor, "draws data latent"]
) -> tuple[Float[Tensor, "data latent"], Float[Tensor, "data latent"]]:
    """Mean and standard deviation of a latent given x, by the guide's or else by its draws."""
    try:
        mean, variance = guide.mean.expand_as(z), guide.variance.expand_as(z)
    except (NotImplementedError, AttributeError, RuntimeError):
        mean, variance = z, torch.zeros_like(z)
    # The law of total variance: of one layer the means of all draws are one.
    return mean.mean(0), (variance.mean(0) + mean.var(0, correction=0)).sqrt()
