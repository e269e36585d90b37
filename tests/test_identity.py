"""What a number was computed from: equal exactly where the numbers are."""

import json
from dataclasses import replace

import pytest
import torch

from ppl_vae.identity import Identity, Source, hash_rows, hash_tensors

WHOLE = Identity("a" * 64, "b" * 64, "ImportanceSampling(num_particles=5)", 0, 2000)


def test_a_hash_sees_values_types_shapes_and_names():
    x = torch.arange(6.0)
    same = hash_tensors({"x": x.clone()})
    others = [{"x": x + 1}, {"x": x.double()}, {"x": x.reshape(2, 3)}, {"y": x}, {"x": x, "y": x}]
    assert hash_tensors({"x": x}) == same
    assert len({same, *map(hash_tensors, others)}) == 6


def test_a_hash_takes_every_type_and_stride():
    for dtype in (torch.bool, torch.bfloat16, torch.int64, torch.float64):
        assert len(hash_rows(torch.ones(2, 3).to(dtype).T)) == 64
    assert hash_rows(torch.zeros(3, 2)) == hash_rows(torch.zeros(2, 3).T)
    assert hash_tensors({"scalar": torch.tensor(1.0)}) != hash_tensors({"scalar": torch.ones(1)})


def test_one_flipped_bit_changes_the_hash():
    x = torch.zeros(1000)
    flipped = x.clone()
    flipped.view(torch.int32)[777] = 1
    assert hash_rows(flipped) != hash_rows(x)


@pytest.mark.parametrize(
    "change",
    [{"parameters": "c"}, {"rows": "c"}, {"settings": "c"}, {"seed": 1}, {"chunk_rows": 1},
     {"device": "cuda"}, {"source": Source("digits", "test")}],
)  # fmt: skip
def test_every_entry_is_part_of_the_key_and_named(change):
    other = replace(WHOLE, **change)
    assert other.key != WHOLE.key
    (told,) = WHOLE.differences(other)
    assert told.startswith(next(iter(change)))
    with pytest.raises(ValueError, match=f"evidence.nc is of something else .{next(iter(change))}"):
        WHOLE.require_same(other, "evidence.nc")


def test_versions_are_told_and_not_compared():
    other = replace(WHOLE, versions={"torch": "0"})
    assert other.key == WHOLE.key
    assert not WHOLE.differences(other)
    assert {"torch", "pyro-ppl", "ppl_vae"} <= WHOLE.to_dict()["versions"].keys()


def test_other_densities_are_of_other_programs_and_outside_the_key():
    here, near, far = (replace(WHOLE, densities={"site 'x'": v}) for v in (-3.0, -3.0001, -3.1))
    assert WHOLE.key == here.key == far.key
    assert not here.differences(near)
    assert not here.differences(WHOLE), "of a file that does not say"
    assert not here.differences(far, "rows")
    (told,) = here.differences(far)
    assert told.startswith("log-density of site 'x' -3 and -3.1 nats")


def test_what_is_written_is_read_back():
    other = replace(WHOLE, source=Source("digits", "test", 50), densities={"site 'x'": -1.5})
    read = Identity.from_dict(json.loads(json.dumps(other.to_dict())))
    assert (read, read.key) == (other, other.key)
    assert str(read.source) == "digits, test, limit 50"


@pytest.mark.parametrize(
    "damage",
    [{"rows": 3}, {"seed": "0"}, {"more": 1}, {"source": {"a": 1}}, {"densities": {"x": "1"}}],
)
def test_a_damaged_one_is_refused(damage):
    with pytest.raises(ValueError, match="no complete identity"):
        Identity.from_dict({**WHOLE.to_dict(), **damage})
