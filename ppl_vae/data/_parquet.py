"""Parquet files: their cells in memory, or their numbers row group by row group."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ppl_vae.data._csv import Reading, parsing
from ppl_vae.data._kinds import is_nameless
from ppl_vae.data._rows import most_in_memory
from ppl_vae.data._spool import spool
from ppl_vae.files import require_content

_CELL = 8
"""Bytes of a number."""
_CELLS_AT_ONCE = 2**21


def read_parquet(path: Path) -> pd.DataFrame:
    """The cells of a file.

    Raises:
        ValueError: If it is broken, or holds much more than its size.
    """
    with parsing(path):
        content = pq.read_metadata(path)
        groups = sum(content.row_group(i).total_byte_size for i in range(content.num_row_groups))
        columns = [content.schema.column(i) for i in range(content.num_columns)]
    # A page may hold one value for many rows: what the cells take in memory counts too.
    require_content(path, max(content.num_rows * content.num_columns * _CELL, groups))
    text = [c.name for c in columns if c.physical_type == "BYTE_ARRAY" and c.path == c.name
            and c.logical_type.type in ("STRING", "NONE")]  # fmt: skip
    # A long text that comes again and again is in the file once: as codes and categories its size
    # is known before it is unfolded.
    with parsing(path):
        table = pd.read_parquet(path, engine="pyarrow", read_dictionary=text)
    coded = [i for i, kind in enumerate(table.dtypes) if isinstance(kind, pd.CategoricalDtype)]
    size = 0
    for i in coded:
        cells = table.iloc[:, i].array
        # A missing cell has the code -1, which takes the length 0 at the end.
        lengths = np.array([*(len(str(value)) for value in cells.categories), 0])
        size += int(lengths[cells.codes].sum())
    require_content(path, size)
    for i in coded:
        table.isetitem(i, table.iloc[:, i].to_numpy(dtype=object))
    return table


def large_parquet(path: Path, reading: Reading) -> tuple[np.ndarray, list[str]] | None:
    """Numbers of a file with too many rows for memory, mapped, and the names of their columns.

    Row groups are unpacked one after another into a temporary file: a batch takes rows of many
    groups, and would unpack all of them each time.

    Args:
        path: The file.
        reading: Columns to leave out, among others.

    Returns:
        The rows in single precision where all columns are, else in double, missing cells NaN; None
        for a file of another kind or with few rows, or with columns that are no plain numbers or
        that may count the rows, which are looked at in memory.

    Raises:
        ValueError: If the file is broken, or lacks a column that is to be left out.
    """
    if path.suffix.lower() != ".parquet":
        return None
    with parsing(path):
        file = pq.ParquetFile(path)
        schema, rows = file.schema_arrow, file.metadata.num_rows
    # An index of pandas is no column to pandas itself.
    index = {str(name) for name in (schema.pandas_metadata or {}).get("index_columns", ())}
    fields = [field for field in schema if field.name not in {*index, *reading.drop}]
    plain = all(_is_number(field.type) for field in fields) and not any(
        is_nameless(field.name) for field in fields
    )
    if not fields or rows <= most_in_memory(len(fields)) or not plain:
        return None
    if unknown := [name for name in reading.drop if name not in schema.names]:
        raise ValueError(f"{path}: no column {unknown[0]!r}: it has {', '.join(schema.names[:3])}.")
    names = [field.name for field in fields]
    single = all(field.type == pa.float32() for field in fields)
    return spool(_groups(file, path, names, np.float32 if single else np.float64), str(path)), names


def _is_number(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    )


def _groups(
    file: pq.ParquetFile, path: Path, names: list[str], dtype: type[np.floating]
) -> Iterator[np.ndarray]:
    with parsing(path):
        for batch in file.iter_batches(max(1, _CELLS_AT_ONCE // len(names)), columns=names):
            values = np.empty((batch.num_rows, len(names)), dtype)
            for i, column in enumerate(batch.columns):
                # By way of pandas, for which a missing cell among integers is NaN.
                values[:, i] = column.to_pandas().astype(dtype)
            yield values
