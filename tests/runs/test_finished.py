"""Finished parts in a file: read back bit for bit, by key, without running code."""

import json
import math
from dataclasses import dataclass

import pytest
import torch

from ppl_vae.runs.finished import FinishedParts


@dataclass(frozen=True)
class Inner:
    value: float


@dataclass(frozen=True)
class Outer:
    single: torch.Tensor
    ranks: torch.Tensor
    by_count: dict
    rows: list
    pair: tuple
    text: str
    nothing: None


OUTER = Outer(
    single=torch.tensor([[1 / 3, math.inf], [math.nan, -0.0]]),
    ranks=torch.empty(0, 3, dtype=torch.int64),
    by_count={1: Inner(0.1), 50: Inner(math.nan)},
    rows=[Inner(1e-300), True, 7],
    pair=(torch.tensor(2.5, dtype=torch.float64), ("a", 1)),
    text="z*",
    nothing=None,
)


def parts(path, classes=(Inner, Outer)):
    return FinishedParts(path, classes)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run" / "parts.json"


def test_read_back_as_it_was(path):
    parts(path).write("first", "key", OUTER)
    found = parts(path).read("first", "key")
    assert found.single.dtype == torch.float32
    assert torch.equal(found.single.view(torch.int32), OUTER.single.view(torch.int32))
    assert (found.ranks.shape, found.ranks.dtype) == ((0, 3), torch.int64)
    assert list(found.by_count) == [1, 50]
    assert found.by_count[1] == Inner(0.1)
    assert math.isnan(found.by_count[50].value)
    assert found.rows == OUTER.rows
    assert found.rows[1] is True
    assert found.pair == OUTER.pair
    assert found.pair[0].dtype == torch.float64
    assert (found.text, found.nothing) == ("z*", None)


def test_by_name_and_key(path):
    kept = parts(path)
    kept.write("a", "1", Inner(1.0))
    kept.write("b", "1", Inner(2.0))
    kept.write("a", "2", Inner(3.0))
    again = parts(path)
    assert again.read("a", "1") is None
    assert again.read("a", "2") == Inner(3.0)
    assert again.read("b", "1") == Inner(2.0)
    assert again.read("c", "1") is None
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("kept", [0.0, 0.5, 0.95])
def test_a_part_of_a_file(path, kept):
    parts(path).write("a", "1", OUTER)
    content = path.read_text()
    path.write_text(content[: int(kept * len(content))])
    with pytest.raises(ValueError, match=r"parts\.json is damaged .* delete it to start anew"):
        parts(path)


@pytest.mark.parametrize(
    "result",
    [
        {"class": "Other", "fields": {}},
        {"class": "Inner", "fields": {"other": 1.0}},
        {"tensor": [1.0], "shape": [2], "dtype": "torch.float32"},
        {"tensor": [1.0], "shape": [1], "dtype": "torch.load"},
        {"call": "print"},
    ],
)
def test_a_file_names_nothing_but_the_classes_given(path, result):
    part = {"key": "1", "result": result}
    path.parent.mkdir()
    path.write_text(json.dumps({"format": "ppl_vae parts 1", "parts": {"a": part}}))
    with pytest.raises(ValueError, match="is damaged"):
        parts(path).read("a", "1")


@pytest.mark.parametrize("content", ["[]", "{}", '{"format": "other", "parts": {}}'])
def test_another_file(path, content):
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(ValueError, match="is damaged"):
        parts(path)


@pytest.mark.parametrize("value", [object(), {1, 2}, torch.ones(1, dtype=torch.complex64)])
def test_what_cannot_be_kept_leaves_the_file(path, value):
    kept = parts(path)
    kept.write("a", "1", Inner(1.0))
    before = path.read_bytes()
    with pytest.raises(TypeError, match="cannot be kept"):
        kept.write("b", "1", [value])
    with pytest.raises(TypeError, match="class Outer is none of Inner"):
        parts(path, (Inner,)).write("b", "1", OUTER)
    assert path.read_bytes() == before
