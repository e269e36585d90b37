"""The missing cells of a run's table, filled in."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import pandas as pd
from torch import Tensor

from ppl_vae.data import decode_table, read_table, rows_of_table
from ppl_vae.imputation import Imputation, impute
from ppl_vae.runs._run import Run

_FEW = 5.0


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
    data: Path | None = None,
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
        ValueError: If the run's data are no table, or another table does not have its columns.
        FileNotFoundError: If the table is not there.
    """
    schema = run.data.schema
    columns = schema.columns
    if columns is None:
        raise ValueError(
            f"{run.folder} was not trained on a table: impute takes runs of a .csv or .parquet "
            'file under likelihood="table".'
        )
    path = Path(run.config.dataset.data) if data is None else data
    table = read_table(path, schema.conversion.reading)
    found = impute(
        run.vae,
        rows_of_table(table, schema, path),
        num_draws=num_draws,
        num_particles=num_particles,
        columns=columns,
        device=run.device,
        seed=seed,
    )

    def filled(values: Tensor) -> pd.DataFrame:
        """Of the file's own cells, only the missing ones are replaced."""
        decoded, complete = decode_table(schema.restore(values.numpy()), columns), table.copy()
        for place, column in enumerate(columns):
            gaps = found.missing[:, place].numpy()
            if gaps.any():
                cells = complete[column.name].astype(object)
                cells[gaps] = decoded[column.name].to_numpy()[gaps]
                complete[column.name] = cells
        return complete

    return ImputedTable(table, [filled(draw) for draw in found.draws], filled(found.point), found)
