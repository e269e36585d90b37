"""Columns of a table: what they look like, codes and labels, and what does not fit."""

import numpy as np
import pandas as pd
import pytest

from ppl_vae.data import Column, code_with, decode_table, encode_table

TABLE = pd.DataFrame(
    {
        "height": [1.7, None, 1.6, 1.9],
        "smoker": ["yes", "no", None, "no"],
        "town": ["Rome", "Oslo", "Bern", None],
        "size": ["small", "large", "middle", "small"],
        "visits": [0, 3, None, 12],
        "flag": [1.0, None, 0.0, 1.0],
    }
)
KINDS = {"size": "ordinal:small<middle<large", "visits": "count", "height": "positive"}


def test_what_columns_look_like():
    values, columns = encode_table(TABLE)
    assert [column.kind for column in columns] == [
        "real", "binary", "categorical", "categorical", "real", "binary",
    ]  # fmt: skip
    assert columns[1].labels == ("no", "yes")
    assert columns[5].labels == ("0", "1")
    np.testing.assert_array_equal(values[:, 1], [1, 0, np.nan, 0])
    np.testing.assert_array_equal(values[:, 2], [2, 1, 0, np.nan])


def test_what_they_are_said_to_be():
    values, columns = encode_table(TABLE, KINDS)
    assert columns[3] == Column("size", "ordinal", ("small", "middle", "large"))
    np.testing.assert_array_equal(values[:, 3], [0, 2, 1, 0])
    assert (columns[0].kind, columns[4].kind) == ("positive", "count")


def test_back_again():
    values, columns = encode_table(TABLE, KINDS)
    back = decode_table(values, columns)
    assert list(back.columns) == list(TABLE.columns)
    assert back["town"].tolist()[:3] == ["Rome", "Oslo", "Bern"]
    assert back["town"].isna().tolist() == [False, False, False, True]
    np.testing.assert_array_equal(code_with(back, columns), values)
    # The order of the columns is the model's, whatever the file's.
    np.testing.assert_array_equal(code_with(TABLE[TABLE.columns[::-1]], columns), values)


def test_numbers_as_labels():
    table = pd.DataFrame({"class": [2, 10, 1, None]})
    values, (column,) = encode_table(table, {"class": "categorical"})
    assert column.labels == ("1", "2", "10")
    np.testing.assert_array_equal(values[:, 0], [1, 2, 0, np.nan])


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        ({"weight": "real"}, "no column 'weight'"),
        ({"height": "long"}, "cannot be 'long': kinds are real, positive"),
        ({"town": "real"}, "column 'town' is not numeric: 'Rome' in row 1"),
        ({"town": "binary"}, "has 3 values, and a binary one has two"),
        ({"visits": "positive"}, "holds 0, expected numbers above 0"),
        ({"height": "count"}, "holds 1.7, expected whole numbers from 0"),
        ({"size": "ordinal:small<large"}, "'middle' in row 3, expected one of 'small', 'large'"),
    ],
)
def test_what_does_not_fit_is_said(kinds, message):
    with pytest.raises(ValueError, match=message):
        encode_table(TABLE, kinds)


def test_another_table_must_have_the_columns_and_labels():
    _, columns = encode_table(TABLE)
    with pytest.raises(ValueError, match="no column 'town', which the model was trained with"):
        code_with(TABLE.drop(columns="town"), columns)
    with pytest.raises(ValueError, match="holds 'Paris' in row 1"):
        code_with(TABLE.replace("Rome", "Paris"), columns)


def test_a_column_of_names_is_no_category():
    table = pd.DataFrame({"id": [f"row {i}" for i in range(1001)]})
    with pytest.raises(ValueError, match="has 1001 labels in 1001 rows, most of them once: leave"):
        encode_table(table)
    with pytest.raises(ValueError, match="1001 different labels"):
        encode_table(table, {"id": "categorical"})


def test_infinity_is_no_number():
    with pytest.raises(ValueError, match="holds inf, expected finite numbers"):
        encode_table(pd.DataFrame({"a": [1.0, np.inf, 3.0]}))
