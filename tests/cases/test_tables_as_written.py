"""Tables as pandas, R and spreadsheets write them, and cells as people write them."""

import logging

import numpy as np
import pandas as pd
import pytest
import torch

from ppl_vae.data import load_dataset, read_rows

X = np.random.default_rng(0).normal(size=(300, 4))
NAMED = pd.DataFrame(X, columns=list("abcd"))
WRITTEN = {
    "named": (NAMED, {"index": False}, "300 rows, 4 real columns"),
    "default": (pd.DataFrame(X), {}, "left out: a first column without a name"),
    "no_index": (pd.DataFrame(X), {"index": False}, "first row taken for names (0, 1, 2 and 1"),
    "years": (
        pd.DataFrame(X, columns=[2001, 2002, 2003, 2004]),
        {"index": False},
        "first row taken for names (2001",
    ),
    "named_with_index": (NAMED, {}, "left out: a first column without a name"),
    "no_header": (NAMED, {"index": False, "header": False}, "no header"),
    "tabs": (NAMED, {"index": False, "sep": "\t"}, r"separator '\t'"),
    "blanks": (NAMED, {"index": False, "sep": " "}, r"separator '\\s+'"),
    "semicolons": (NAMED, {"index": False, "sep": ";"}, "separator ';'"),
    "decimal_commas": (NAMED, {"index": False, "sep": ";", "decimal": ","}, "decimal commas in a"),
}


def rows_of(data):
    rows = torch.cat([data.train, data.valid, data.test])
    return rows[rows[:, 0].argsort()]


@pytest.mark.parametrize("mixed", [True, False])
@pytest.mark.parametrize("name", WRITTEN)
def test_a_table_is_the_same_however_it_is_written(name, mixed, tmp_path, caplog):
    table, how, told = WRITTEN[name]
    table.to_csv(tmp_path / "t.csv", **how)
    with caplog.at_level(logging.INFO, "ppl_vae"):
        data = load_dataset(tmp_path / "t.csv", columns={} if mixed else None)
    assert data.features == 4
    assert torch.equal(rows_of(data), rows_of(load_dataset(X.astype(np.float32))))
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("t.csv: 300 rows, 4 ")
    assert (told if mixed else told.replace("real columns", "columns of numbers")) in line


def test_what_cannot_be_told_is_asked(tmp_path):
    path = tmp_path / "t.csv"
    ranks = np.random.default_rng(0).permuted(np.tile(np.arange(4), (50, 1)), axis=1)
    pd.DataFrame(ranks).to_csv(path, index=False)
    with pytest.raises(ValueError, match=r"may be names or data: say which .header="):
        load_dataset(path)
    assert len(rows_of(load_dataset(path, header="yes"))) == 50
    assert len(rows_of(load_dataset(path, header="no"))) == 51


def people():
    rng, n = np.random.default_rng(0), 300
    age = rng.integers(18, 90, n).astype(object)
    marked = age.copy()
    marked[:5] = "?"
    return pd.DataFrame(
        {
            "age": age,
            "marked": marked,
            "income": [f"{v:,}" for v in rng.integers(1000, 90000, n)],
            "share": [f"{v:.1f}%" for v in rng.uniform(0, 100, n)],
            "height": [f"{v:.2f}".replace(".", ",") for v in rng.normal(1.7, 0.1, n)],
            "visit": pd.date_range("2020-01-01", periods=n).strftime("%Y-%m-%d"),
            "patient": [f"P{i:05d}" for i in range(n)],
            "sex": rng.choice(["f", "m"], n),
        }
    )


def test_text_that_is_numbers(tmp_path, caplog):
    table = people()
    table[["age", "marked", "height", "sex"]].to_csv(tmp_path / "t.csv", index=False)
    data = load_dataset(tmp_path / "t.csv", columns={})
    kinds = {column.name: column.kind for column in data.columns}
    assert kinds == {"age": "real", "marked": "real", "height": "real", "sex": "binary"}
    rows = rows_of(data)
    assert rows[:, 1].isnan().sum() == 5
    expected = table["height"].str.replace(",", ".").astype(float).mean()
    assert rows[:, 2].mean().item() == pytest.approx(expected)
    assert (
        "3 real, 1 binary columns; 5 '?' read as missing; decimal commas in height" in caplog.text
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("income", 'thousands or before decimals .thousands="," or decimal='),
        ("share", "holds percentages such as"),
        ("visit", "holds dates such as '2020-01-01.*days since a date"),
        ("patient", "has 300 labels in 300 rows, most of them once: leave it out .drop=..patient"),
    ],
)
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_text_that_is_no_category(name, message, suffix, tmp_path):
    table = people()[["age", name]]
    if suffix == "parquet":
        table = table.astype({"age": int})
        if name == "visit":
            table["visit"] = pd.to_datetime(table["visit"])
        table.to_parquet(tmp_path / "t.parquet")
    else:
        table.to_csv(tmp_path / "t.csv", index=False)
    path = tmp_path / f"t.{suffix}"
    with pytest.raises(ValueError, match=message) as error:
        load_dataset(path, columns={})
    assert "\n" not in str(error.value)
    assert load_dataset(path, columns={}, drop=[name]).features == 1
    asked = load_dataset(path, columns={name: "categorical"}, header="yes")
    assert asked.columns[1].kind == "categorical"


def test_thousands_and_missing_words_are_as_said(tmp_path):
    table = people()[["income", "age"]]
    table.loc[3, "age"] = -999
    table.to_csv(tmp_path / "t.csv", index=False)
    data = load_dataset(tmp_path / "t.csv", columns={}, thousands=",", missing=["-999"])
    rows = rows_of(data)
    assert rows[:, 1].isnan().sum() == 1
    expected = table["income"].str.replace(",", "").astype(float)
    assert rows[:, 0].max().item() == expected.max()


def test_one_odd_cell_is_named(tmp_path):
    table = people()[["age"]]
    table.loc[7, "age"] = "old"
    table["weight"] = X[:, 0]
    table.to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(ValueError, match=r"'age' is not numeric: 'old' in row 8 .* 299 of 300"):
        load_dataset(tmp_path / "t.csv", columns={})
    assert load_dataset(tmp_path / "t.csv", missing=["old"], allow_missing=True).features == 2


def test_files_of_another_kind_are_named_as_such(tmp_path):
    (tmp_path / "latin.csv").write_bytes("name,x\nJosé,1\n".encode("latin1") * 20)
    with pytest.raises(ValueError, match="byte 0xe9 is not UTF-8 text"):
        load_dataset(tmp_path / "latin.csv", columns={})
    (tmp_path / "junk.parquet").write_bytes(b"junk" * 100)
    with pytest.raises(ValueError, match="no Parquet file, or damaged"):
        load_dataset(tmp_path / "junk.parquet", columns={})


def test_nothing_but_missing_cells(tmp_path):
    with pytest.raises(ValueError, match="nothing to learn from: every cell is missing"):
        load_dataset(np.full((20, 2), np.nan), allow_missing=True)


def test_settings_of_tables_mean_nothing_elsewhere():
    with pytest.raises(ValueError, match=r"separator is of a .csv or .parquet file"):
        load_dataset("digits", separator=";")
    with pytest.raises(ValueError, match="digits has splits of its own"):
        load_dataset("digits", valid_fraction=0.2)
    with pytest.raises(ValueError, match="decimal and thousands are both"):
        load_dataset("t.csv", decimal=",", thousands=",")
    with pytest.raises(ValueError, match="test_data or are a test_fraction"):
        load_dataset("t.csv", test_data="u.csv", test_fraction=0.2)


def test_splits_as_chosen(tmp_path):
    data = load_dataset(X, valid_fraction=0.2, test_fraction=0.3)
    assert [len(x) for x in (data.train, data.valid, data.test)] == [150, 60, 90]
    assert "50/20/30" in data.description
    other = load_dataset(X, valid_fraction=0.2, test_fraction=0.3, split_seed=1)
    assert not torch.equal(other.test, data.test)
    NAMED.to_csv(tmp_path / "a.csv", index=False)
    NAMED[::-1][list("dcba")].to_csv(tmp_path / "b.csv", sep=";", index=False)
    data = load_dataset(tmp_path / "a.csv", columns={}, test_data=tmp_path / "b.csv")
    assert [len(x) for x in (data.train, data.valid)] == [270, 30]
    assert np.array_equal(data.test.numpy(), X[::-1].astype(np.float32))
    assert torch.equal(read_rows(tmp_path / "b.csv", data.schema), data.test)
