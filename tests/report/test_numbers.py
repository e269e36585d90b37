"""Numbers as text."""

import math

import pytest

from ppl_vae.report import _numbers as numbers
from ppl_vae.report._blocks import TableColumn
from ppl_vae.report._numbers import MINUS, MISSING


@pytest.mark.parametrize(
    ("form", "value", "text"),
    [
        (numbers.nats, -1.23456, f"{MINUS}1.235"),
        (numbers.nats, -0.0001, "0.000"),
        (numbers.signed, -0.0001, "+0.000"),
        (numbers.signed, 0.5, "+0.500"),
        (numbers.signed, math.inf, "+\N{INFINITY}"),
        (numbers.signed, -math.inf, f"{MINUS}\N{INFINITY}"),
        (numbers.nats, -math.inf, f"{MINUS}\N{INFINITY}"),
        (numbers.error, 0.0123, "± 0.012"),
        (numbers.probability, 0.00001, "< 0.001"),
        (numbers.probability, 1.0, "1.000"),
        (numbers.chance, 1.0, "> 0.999"),
        (numbers.chance, 0.0, "< 0.001"),
        (numbers.chance, 0.9, "0.900"),
        (numbers.count, 1234567, "1,234,567"),
        (numbers.tenths, 1234.56, "1,234.6"),
    ],
)
def test_forms(form, value, text):
    assert form(value) == text
    assert form(None) == form(math.nan) == MISSING


def test_sentences():
    assert numbers.interval(-1, 2) == f"{MINUS}1.000 to 2.000"


def test_an_infinite_value_sorts_as_the_number_it_is():
    """JavaScript's Number reads "Infinity" and not "inf"."""
    column = TableColumn("low", "number")
    keys = [column.key(value) for value in (math.inf, -math.inf, -0.5, math.nan, None)]
    assert keys == ["Infinity", "-Infinity", "-0.5", "", ""]
