"""All results of a study in files that other tools read: tidy Parquet tables and netCDF.

Everything is written cell by cell, in memory that does not grow with their number, and put into
place when it is whole.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5netcdf
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ppl_vae.evidence import Evidence
from ppl_vae.files import replacing
from ppl_vae.runs import RunRecord
from ppl_vae.training import EpochRecord

if TYPE_CHECKING:
    from ppl_vae.studies._results import StudyResults

RESULTS, TABLE, HISTORIES, NETCDF = (
    "results.parquet",
    "cells.parquet",
    "histories.parquet",
    "results.nc",
)
_CELL_FIELDS = (
    ("state", pa.string()),
    ("reason", pa.string()),
    ("attempts", pa.int64()),
    ("updates", pa.int64()),
    ("evaluations", pa.int64()),
    ("epochs", pa.int64()),
    ("kept_epoch", pa.int64()),
    ("seconds", pa.float64()),
)
_QUANTITIES = (
    "bound", "log_likelihood", "learning_rate", "seconds", "updates", "evaluations", "validation",
    "validation_error",
)  # fmt: skip
_VALUES = ("log_prob", "standard_error", "effective_sample_size", "pareto_k")


def write_tables(results: "StudyResults") -> list[Path]:
    """Write ``results.parquet``, ``cells.parquet``, ``histories.parquet`` and ``results.nc``.

    ``results`` has a row for each cell, method and datum: arm, factors, seed, method, datum,
    log_prob and standard_error in nats, effective_sample_size, pareto_k. ``cells`` has a row for
    each cell: its state and its cost. ``histories`` has one for each epoch. The netCDF file holds
    the values of ``results`` by (arm, seed, datum), a group for each method, NaN where a cell is
    not done.

    Returns:
        Their paths.

    Raises:
        OSError: If one cannot be written; an earlier one stays whole.
    """
    folder = results.folder
    _write(folder / RESULTS, _result_schema(results), _result_rows(results))
    _write(folder / TABLE, _cell_schema(results), _cell_rows(results))
    _write(folder / HISTORIES, None, _history_rows(results))
    paths = [folder / RESULTS, folder / TABLE, folder / HISTORIES]
    if any(results.in_state("done")):
        with replacing(folder / NETCDF) as temporary:
            _write_netcdf(results, temporary)
        paths.append(folder / NETCDF)
    return [path for path in paths if path.is_file()]


def _write(path: Path, schema: pa.Schema | None, tables: Iterator[dict[str, Any]]) -> None:
    """Write one row group for each table; without a schema, that of the first table holds."""
    writer = None
    with replacing(path) as temporary:
        try:
            for columns in tables:
                table = pa.table(columns, schema=schema)
                if writer is None:
                    schema = table.schema
                    writer = pq.ParquetWriter(temporary, schema)
                writer.write_table(table)
            if writer is None:
                # Without a row too there is a file, with the columns that are known.
                writer = pq.ParquetWriter(temporary, schema or pa.schema([]))
        finally:
            if writer is not None:
                writer.close()


def _key_fields(results: "StudyResults") -> list[tuple[str, Any]]:
    text = pa.string()
    return [("arm", text), *((name, text) for name in results.study.factors), ("seed", pa.int64())]


def _key(cell: RunRecord, count: int) -> dict[str, Any]:
    values = {"arm": cell.arm, **cell.levels, "seed": cell.seed}
    return {name: [value] * count for name, value in values.items()}


def _result_schema(results: "StudyResults") -> pa.Schema:
    values = [(name, pa.float64()) for name in _VALUES]
    own = [("method", pa.string()), ("datum", pa.int64()), *values]
    return pa.schema([*_key_fields(results), *own])


def _result_rows(results: "StudyResults") -> Iterator[dict[str, Any]]:
    for cell in results.in_state("done"):
        for method in results.study.methods:
            evidence = cell.evidence(method.label)
            if evidence is not None:
                yield {
                    **_key(cell, len(evidence)),
                    "method": [method.label] * len(evidence),
                    "datum": np.arange(len(evidence)),
                    **{name: _column(evidence, name) for name in _VALUES},
                }


def _column(evidence: Evidence, name: str) -> np.ndarray:
    values = getattr(evidence, name)
    if values is None:
        # A method without this column has NaN, so that all methods share one schema.
        return np.full(len(evidence), np.nan)
    return np.asarray(values.double().numpy())


def _cell_schema(results: "StudyResults") -> pa.Schema:
    return pa.schema([*_key_fields(results), *_CELL_FIELDS])


def _cell_rows(results: "StudyResults") -> Iterator[dict[str, Any]]:
    for cell in results.cells:
        yield {**_key(cell, 1), **{name: [getattr(cell, name)] for name, _ in _CELL_FIELDS}}


def _history_rows(results: "StudyResults") -> Iterator[dict[str, Any]]:
    """Learning curves in long form: sites of arms differ, so that the KL of each is a row."""
    for cell in results.cells:
        rows = [
            (record.epoch, name, value)
            for record in cell.history.records
            for name, value in _curves(record)
        ]
        keys = zip(_key_fields(results), _key(cell, len(rows)).values(), strict=True)
        epochs, names, values = zip(*rows, strict=True) if rows else ((), (), ())
        yield {
            # Typed here, as a cell without epochs has empty columns, whose type nothing tells.
            **{name: pa.array(column, kind) for (name, kind), column in keys},
            "epoch": pa.array(epochs, pa.int64()),
            "quantity": pa.array(names, pa.string()),
            "value": pa.array(values, pa.float64()),
        }


def _curves(record: EpochRecord) -> Iterator[tuple[str, float]]:
    for name in _QUANTITIES:
        if (value := getattr(record, name)) is not None:
            yield name, float(value)
    for site, value in record.kl.items():
        yield f"kl/{site}", value


def _write_netcdf(results: "StudyResults", path: Path) -> None:
    arms, seeds = list(results.study.arms), list(results.study.seeds)
    first = results.study.methods[0].label
    evaluated = (cell.evidence(first) for cell in results.in_state("done"))
    # All cells are evaluated on the same data, so that the first tells their number.
    num_data = next((len(evidence) for evidence in evaluated if evidence is not None), 0)
    shape = ("arm", "seed", "datum")
    # Written in place cell by cell: one array of all cells might not fit into memory.
    with h5netcdf.File(path, "w") as file:
        file.attrs["title"] = results.study.title
        file.attrs["unit"] = "nats per datum"
        file.dimensions = dict(zip(shape, (len(arms), len(seeds), num_data), strict=True))
        text = h5py.string_dtype()
        file.create_variable("arm", ("arm",), text, data=np.array(arms, dtype=object))
        file.create_variable("seed", ("seed",), "i8", data=np.array(seeds))
        file.create_variable("datum", ("datum",), "i8", data=np.arange(num_data))
        for number, method in enumerate(results.study.methods):
            group = file.create_group("evidence" if number == 0 else f"evidence_{method.label}")
            variables = {
                name: group.create_variable(name, shape, "f8", fillvalue=np.nan) for name in _VALUES
            }
            for cell in results.in_state("done"):
                evidence = cell.evidence(method.label)
                if evidence is None:
                    continue
                place = arms.index(cell.arm), seeds.index(cell.seed)
                for name, variable in variables.items():
                    variable[place] = _column(evidence, name)
                for name in ("method", "direction", "num_particles"):
                    group.attrs[name] = getattr(evidence, name)
