"""Missing cells filled in by draws from p(x_missing | x_observed)."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ppl_vae.data import CODED, Column, decode_table, in_memory, read_table, rows_of_table
from ppl_vae.names import require_instance
from ppl_vae.particles import ChunkSize, Programs, draw_particles, evaluation
from ppl_vae.randomness import Stream, seeded
from ppl_vae.runs import Model, Run
from ppl_vae.weights import effective_sample_size, normalized_weights

_ROWS = 50_000
"""Particles times rows that are decoded at once."""
_FEW = 5.0
"""Effective samples of a row below which its draws are flagged."""


@final
@dataclass(frozen=True, eq=False)
class Imputation:
    """Completed data. Observed cells are as they were in all of them.

    Attributes:
        draws: Complete data sets, shape (draws, num_data, features): multiple imputations, which
            carry the uncertainty of the missing cells into whatever is computed from each.
        point: One complete data set: of numbers, the mean given the observed cells; of codes, the
            most frequent one among the draws. Best for prediction, and too certain for anything
            else.
        missing: Which cells were missing, shape (num_data, features).
        effective_sample_size: Of each row's weights, shape (num_data,). Small ones mean that draws
            repeat a few latents: take more particles.
    """

    draws: Float[Tensor, "draws num_data features"]
    point: Float[Tensor, "num_data features"]
    missing: Bool[Tensor, "num_data features"]
    effective_sample_size: Float[Tensor, " num_data"]


def impute(
    vae: Model,
    x: Float[Tensor, "num_data features"],
    *,
    num_draws: int = 20,
    num_particles: int = 1000,
    columns: Sequence[Column] = (),
    device: torch.device | str | None = None,
    seed: int = 0,
) -> Imputation:
    """Draws of ``p(x_missing | x_observed)`` by self-normalised importance resampling.

    K latents z_k ~ q(z|x_observed) get weights ``v_k = w_k / sum_j w_j`` with ``w = p(x_observed|z)
    p(z) / q(z|x)``. A draw takes z_k with probability v_k, and x_missing ~ p(x_missing|z_k), which
    is right where features are independent given z. Consistent as K grows, where cells are missing
    at random. Costs K decoder evaluations a row.

    Args:
        vae: A trained model whose decoder leaves missing cells out, as
            :class:`~ppl_vae.likelihoods.ObservedDecoder` and
            :class:`~ppl_vae.likelihoods.TableDecoder` do.
        x: Rows, NaN for missing cells.
        num_draws: Complete data sets wanted.
        num_particles: Number of particles K.
        columns: What the columns of a table are; none: all are numbers.
        device: Where to compute; the data's device if not given.
        seed: Seed of the draws.

    Raises:
        ValueError: If a number is less than 1, or there are no data.

    References:
        Mattei and Frellsen, 2019, MIWAE: deep generative modelling and imputation of incomplete
        data sets.
        Rubin, 1987, Multiple imputation for nonresponse in surveys.
    """
    if num_draws < 1 or num_particles < 1:
        raise ValueError(
            "impute needs num_draws >= 1 and num_particles >= 1, got "
            f"{num_draws} and {num_particles}."
        )
    programs = Programs(vae.model, vae.guide)
    # whole: the weights of a row are normalised over all its particles.
    size = ChunkSize(num_particles, cpu=_ROWS, gpu=_ROWS, whole=True)
    with (
        evaluation(programs, x, size, device=device) as look,
        torch.no_grad(),
        seeded(seed, Stream.SAMPLING),
    ):
        parts = [_impute(vae, part, num_draws, num_particles, columns) for part, _ in look.chunks()]
    return Imputation(
        draws=torch.cat([part.draws for part in parts], 1),
        point=torch.cat([part.point for part in parts]),
        missing=torch.cat([part.missing for part in parts]),
        effective_sample_size=torch.cat([part.effective_sample_size for part in parts]),
    )


def _impute(
    vae: Model,
    x: Tensor,
    num_draws: int,
    num_particles: int,
    columns: Sequence[Column],
) -> Imputation:
    particles = draw_particles(vae.model, vae.guide, x, num_particles)
    weights = normalized_weights(particles.log_weight.double())
    z = particles.latents[vae.bottom]
    # With replacement and joint over features: cells of one draw come from one latent.
    chosen = torch.multinomial(weights.mT, num_draws, replacement=True).mT
    complete = vae.decoder(z[chosen, torch.arange(len(x), device=x.device)]).sample().to(x)
    missing = x.isnan()
    draws = torch.where(missing, complete, x)
    # The mean of means under the weights: less noise than the mean of the draws.
    mean = (weights.to(x).unsqueeze(-1) * vae.decoder(z).mean.to(x)).sum(0)
    coded = [place for place, column in enumerate(columns) if column.kind in CODED]
    # A mean of codes is no code.
    mean[:, coded] = draws[..., coded].mode(0).values
    point = torch.where(missing, mean, x)
    size = effective_sample_size(particles.log_weight.double())
    return Imputation(draws.cpu(), point.cpu(), missing.cpu(), size.cpu())


@final
@dataclass(frozen=True)
class ImputedTable:
    """A table with its missing cells filled in.

    Attributes:
        table: As it was read.
        draws: Completed tables.
        point: The single best completed table.
        imputation: The values behind them.
    """

    table: pd.DataFrame
    draws: list[pd.DataFrame]
    point: pd.DataFrame
    imputation: Imputation

    def summary(self) -> dict[str, Any]:
        """The counts as plain values, for JSON."""
        missing, size = self.imputation.missing, self.imputation.effective_sample_size
        incomplete = missing.any(1)
        return {
            "rows": len(self.table),
            "missing_cells": int(missing.sum()),
            "incomplete_rows": int(incomplete.sum()),
            "draws": len(self.draws),
            "rows_with_few_effective_samples": int((size[incomplete] < _FEW).sum()),
        }

    def __str__(self) -> str:
        s = self.summary()
        text = (
            f"{s['missing_cells']} missing cells in {s['incomplete_rows']} of {s['rows']} rows, "
            f"filled in {s['draws']} times"
        )
        if s["rows_with_few_effective_samples"]:
            text += (
                f"\ncaution: {s['rows_with_few_effective_samples']} rows have fewer than {_FEW:g} "
                "effective samples, so that their draws repeat each other; use more particles"
            )
        return text


def impute_run(
    run: Run,
    data: str | os.PathLike[str] | None = None,
    *,
    num_draws: int = 20,
    num_particles: int = 1000,
    seed: int = 0,
) -> ImputedTable:
    """Fill in the missing cells of a table.

    Args:
        run: A trained run.
        data: File of a table with the run's columns; None: the one that it was trained on.
        num_draws: Number of completed tables.
        num_particles: Number of particles K that are weighted for each row.
        seed: Seed of the draws.

    Raises:
        ValueError: If the run's data are no table or were changed since, or another table does not
            have its columns.
        FileNotFoundError: If the table is not there.
    """
    require_instance("run", run, Run, "open_run(FOLDER) reads one")
    schema = run.data.schema
    columns = schema.columns
    if columns is None:
        raise ValueError(
            f"{run.folder} was not trained on a table: impute takes runs of a .csv or .parquet "
            'file under likelihood="table".'
        )
    path = Path(run.config.dataset.data if data is None else data)
    if data is None:
        # As of any other use of the training data: a file that was changed since is refused.
        run.rows("train", 1)
    table = read_table(path, schema.conversion.reading)
    imputation = impute(
        run.vae,
        in_memory(rows_of_table(table, schema, path), "an imputation"),
        num_draws=num_draws,
        num_particles=num_particles,
        columns=columns,
        device=run.device,
        seed=seed,
    )

    def filled(values: Tensor) -> pd.DataFrame:
        """The table with nothing but its missing cells replaced."""
        decoded, complete = decode_table(schema.restore(values.numpy()), columns), table.copy()
        for place, column in enumerate(columns):
            missing = imputation.missing[:, place].numpy()
            if missing.any():
                # As objects: a filled cell may be a fraction among whole numbers.
                cells = complete[column.name].astype(object)
                cells[missing] = decoded[column.name].to_numpy()[missing]
                complete[column.name] = cells
        return complete

    draws = [filled(draw) for draw in imputation.draws]
    return ImputedTable(table, draws, filled(imputation.point), imputation)
