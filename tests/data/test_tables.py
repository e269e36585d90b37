import datetime

import numpy as np
import pandas as pd
import pytest
import torch

from ppl_vae.data import _csv, load_dataset

ROWS = [f"{i},{i / 2},-{i}e-1" for i in range(1, 13)]


def write(tmp_path, lines, name="t.csv"):
    path = tmp_path / name
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def error_of(path):
    with pytest.raises(ValueError, match=r"\S") as error:
        load_dataset(path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)
    return str(error.value)


def all_rows(data):
    rows = torch.cat([data.train, data.valid, data.test])
    return rows[rows[:, 0].argsort()]


EXPECTED = torch.tensor([[i, i / 2, -i / 10] for i in range(1, 13)])


@pytest.mark.parametrize("header", ["a,b,c", '"a","b","c"', "\ufeffa,b,c"])
def test_csv_with_header(tmp_path, header):
    data = load_dataset(write(tmp_path, [header, *ROWS]))
    assert (data.name, data.feature_names, data.image_shape) == ("t", ("a", "b", "c"), None)
    assert torch.equal(all_rows(data), EXPECTED)


def test_csv_without_header(tmp_path):
    data = load_dataset(write(tmp_path, [*ROWS, ""], "T.CSV"))
    assert data.feature_names == ("x1", "x2", "x3")
    assert torch.equal(all_rows(data), EXPECTED)


def test_csv_splits_as_the_array_does(tmp_path):
    data = load_dataset(write(tmp_path, ROWS))
    assert data.fingerprint() == load_dataset(EXPECTED).fingerprint()


def test_csv_with_booleans(tmp_path):
    data = load_dataset(write(tmp_path, ["a", *["True", "False"] * 6]))
    assert data.is_binary


def test_column_that_is_no_number(tmp_path):
    lines = ["a,b,c", *ROWS[:4], "4,high,0", *ROWS[5:]]
    assert "column 'b' is not numeric: 'high' in row 5" in error_of(write(tmp_path, lines))


@pytest.mark.parametrize("cell", ["", "NA", "nan", "inf", "-Infinity"])
def test_cell_that_is_missing_or_infinite(tmp_path, cell):
    lines = ["a,b,c", *ROWS[:4], f"4,{cell},0", *ROWS[5:]]
    message = error_of(write(tmp_path, lines))
    assert "1 missing or non-finite value(s), the first in row 5, column 'b'" in message


@pytest.mark.parametrize("cell", ["", "NA", "nan"])
def test_gap_in_the_first_row_does_not_make_it_a_header(tmp_path, cell):
    assert "row 1, column 'x2'" in error_of(write(tmp_path, [f"0,{cell},0", *ROWS]))


def test_blank_line_in_one_column_is_a_gap(tmp_path):
    lines = ["a", *"1234", "", *"56789012"]
    assert "row 5, column 'a'" in error_of(write(tmp_path, lines))


def test_ragged_rows(tmp_path):
    long = write(tmp_path, ["a,b,c", *ROWS[:4], "1,2,3,4", *ROWS[5:]])
    assert "not a readable table" in error_of(long)
    all_long = write(tmp_path, ["a,b", *ROWS])
    assert "not a readable table" in error_of(all_long)
    short = write(tmp_path, ["a,b,c", *ROWS, "1,2"])
    assert "row 13, column 'c' is not there: the row has 2 cells of 3" in error_of(short)


CELLS = ['"x"', '"a,b"', '"two\nlines"', '"a ""word"", quoted"', " padded", '5" pipe']


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n"])
def test_a_short_row_among_quoted_cells(tmp_path, cell, header, end, monkeypatch):
    """Separators and line breaks inside quotes end neither cells nor rows, however it is read."""
    rows = [f"{i},{i % 2},{cell}" for i in range(12)]
    path = tmp_path / "t.csv"
    reading = {"header": "yes" if header else "no", "separator": ",", "columns": {}}
    for size in (1, 40, 10**6):
        monkeypatch.setattr(_csv, "_CHUNK", size)
        path.write_text(end.join([*["a,b,c"] * header, *rows, "12,1,y"]), newline="")
        assert len(all_rows(load_dataset(path, **reading))) == 13
        path.write_text(end.join([*["a,b,c"] * header, *rows, "12,1", *rows]), newline="")
        with pytest.raises(
            ValueError, match=r"row 13, column '(c|x3)' is not there: .* 2 cells of 3"
        ):
            load_dataset(path, **reading)


@pytest.mark.parametrize(("separator", "name"), [(",", ","), ("\t", "auto"), (" ", "space")])
def test_a_file_that_was_cut_off_has_no_missing_cells(tmp_path, separator, name):
    """Its last number is cut as well, and a table of mixed columns takes missing cells."""
    lines = ["a,b,c", *(f"{i}.5,{i % 2},{1000 + i}" for i in range(12))]
    path = tmp_path / "a.csv"
    text = "\n".join(lines).replace(",", separator)
    path.write_text(text[: -len(",1011")])
    with pytest.raises(ValueError, match=r"row 12, column '[bc]' is not there"):
        load_dataset(path, allow_missing=True, separator=name)
    path.write_text(text + "\n\n")
    assert len(all_rows(load_dataset(path, allow_missing=True, separator=name))) == 12


def test_csv_that_is_empty_short_or_binary(tmp_path):
    assert "is empty: give a table with a header and rows" in error_of(write(tmp_path, [""]))
    with pytest.raises(ValueError, match="too few rows: got 3"):
        load_dataset(write(tmp_path, ["a,b,c", *ROWS[:3]]))
    with pytest.raises(ValueError, match=r"csv holds no data: give at least 10 rows"):
        load_dataset(write(tmp_path, ["a,b,c"]))
    path = tmp_path / "b.csv"
    path.write_bytes(bytes(range(256)) * 4)
    assert "not a readable table" in error_of(path)


def test_semicolons(tmp_path):
    lines = [row.replace(",", ";") for row in ROWS]
    assert torch.equal(all_rows(load_dataset(write(tmp_path, lines))), EXPECTED)
    with pytest.raises(ValueError, match=r"is not numeric: '2;1.0;-2e-1' in row 1"):
        load_dataset(write(tmp_path, lines), separator=",")


def table(**changes):
    return pd.DataFrame(
        {"a": np.arange(1, 13), "b": np.arange(1, 13) / 2, "c": -np.arange(1, 13) / 10} | changes
    )


def test_parquet(tmp_path):
    path = tmp_path / "t.parquet"
    table().to_parquet(path)
    data = load_dataset(path)
    assert data.feature_names == ("a", "b", "c")
    assert torch.equal(all_rows(data), EXPECTED)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (["1"] * 11 + ["x"], "column 'b' is not numeric: 'x' in row 12"),
        ([datetime.datetime(2020, 1, 1)] * 12, "column 'b' holds dates such as '2020-01-01"),
        ([[1.0, 2.0]] * 12, "column 'b' holds values of type ndarray"),
        (pd.Categorical(["u", "v"] * 6), "column 'b' is not numeric: 'u' in row 1"),
        (pd.array([1] * 11 + [None], dtype="Int64"), "row 12, column 'b'"),
        ([1.0] * 11 + [np.inf], "row 12, column 'b'"),
    ],
)
def test_parquet_columns_that_are_unfit(tmp_path, column, message):
    path = tmp_path / "t.parquet"
    table(b=column).to_parquet(path)
    assert message in error_of(path)


def test_parquet_that_is_broken(tmp_path):
    path = tmp_path / "t.parquet"
    table().to_parquet(path)
    path.write_bytes(path.read_bytes()[:-20])
    assert "not a readable table" in error_of(path)
    path.write_bytes(b"")
    assert "not a readable table" in error_of(path)
