"""Finished parts in a file: read back bit for bit, by key, without running code."""

import math
from dataclasses import dataclass, replace

import pytest
import torch

from ppl_vae.identity import Identity
from ppl_vae.runs._kept import KeptResults
from ppl_vae.store import Stored

WHAT = Identity("a" * 64, "b" * 64, "surgery", 0)
OTHER = replace(WHAT, seed=1)


@dataclass(frozen=True)
class Inner:
    value: float


@dataclass(frozen=True)
class Outer:
    single: torch.Tensor
    ranks: torch.Tensor
    by_count: dict
    rows: list[Inner | bool | int]
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


def parts(path, classes=(Outer,)):
    return KeptResults(path, classes)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run" / "parts.safetensors"


def test_read_back_as_it_was(path):
    parts(path).write(WHAT, OUTER)
    found = parts(path).read(WHAT)
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


def test_each_under_what_it_was_computed_from(path):
    kept = parts(path)
    kept.write(WHAT, Inner(1.0))
    kept.write(OTHER, Inner(2.0))
    again = parts(path)
    assert again.read(WHAT) == Inner(1.0)
    assert again.read(OTHER) == Inner(2.0)
    assert again.read(replace(WHAT, rows="c")) is None
    assert list(path.parent.iterdir()) == [path]


def test_a_changed_number_is_refused(path):
    parts(path).write(WHAT, Inner(1.25))
    path.write_bytes(path.read_bytes().replace(b"1.25", b"1.35"))
    with pytest.raises(ValueError, match=r"parts\.safetensors is not as it was written"):
        parts(path)


@pytest.mark.parametrize("kept", [0.0, 0.5, 0.95])
def test_a_part_of_a_file(path, kept):
    parts(path).write(WHAT, OUTER)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(ValueError, match=r"parts\.safetensors is damaged .* delete it to start"):
        parts(path)


@pytest.mark.parametrize(
    "result",
    [
        {"class": "Other", "fields": {}},
        {"class": "Inner", "fields": {"other": 1.0}},
        {"tensor": "1"},
        {"call": "print"},
    ],
)
def test_a_file_names_nothing_but_the_classes_given(path, result):
    part = {"identity": WHAT.to_dict(), "result": result}
    Stored({}, {WHAT.key: part}).write(path, "ppl_vae results 1")
    with pytest.raises(ValueError, match="is damaged"):
        parts(path).read(WHAT)


@pytest.mark.parametrize("content", ["[]", "{}", '{"format": "other", "parts": {}}'])
def test_another_file(path, content):
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(ValueError, match="is damaged"):
        parts(path)


@pytest.mark.parametrize("value", [object(), {1, 2}])
def test_what_cannot_be_kept_leaves_the_file(path, value):
    kept = parts(path)
    kept.write(WHAT, Inner(1.0))
    before = path.read_bytes()
    with pytest.raises(TypeError, match="cannot be kept"):
        kept.write(OTHER, [value])
    with pytest.raises(TypeError, match="class Outer is none of Inner"):
        parts(path, (Inner,)).write(OTHER, OUTER)
    assert path.read_bytes() == before
