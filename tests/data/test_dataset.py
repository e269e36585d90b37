import dataclasses

import pytest
import torch

from ppl_vae.data import Dataset


def make(n=20, features=4, **changes):
    x = torch.arange(n * features).reshape(n, features) / (n * features)
    return Dataset(**({"name": "toy", "train": x, "valid": x[:5], "test": x[5:9]} | changes))


def test_properties():
    assert make().features == 4
    assert not make().is_binary
    ones = torch.ones(3, 2)
    assert make(train=ones, valid=ones, test=0 * ones).is_binary


def test_is_frozen_and_short_to_print():
    data = make()
    with pytest.raises(dataclasses.FrozenInstanceError):
        data.name = "other"
    assert "tensor" not in repr(data)


def test_fingerprint_is_of_the_data_alone():
    data = make()
    assert len(data.fingerprint()) == 64
    assert data.fingerprint() == make(name="other", description="other").fingerprint()


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_fingerprint_changes_with_one_value(split):
    changed = getattr(make(), split).clone()
    changed[-1, -1] += 1e-6
    assert make(**{split: changed}).fingerprint() != make().fingerprint()


def test_fingerprint_changes_with_shape_split_and_order():
    x = torch.arange(24.0)
    wide, narrow = (
        make(train=x.view(shape), valid=x.view(shape), test=x.view(shape))
        for shape in [(4, 6), (6, 4)]
    )
    swapped = make(valid=make().test, test=make().valid)
    flipped = make(train=make().train.flip(0))
    prints = {d.fingerprint() for d in (make(), wide, narrow, swapped, flipped)}
    assert len(prints) == 5


@pytest.mark.parametrize(
    "bad", [torch.zeros(3), torch.zeros(3, 5), torch.zeros(0, 4), torch.zeros(3, 4).double()]
)
def test_rejects_other_shapes_and_types(bad):
    with pytest.raises(ValueError, match=r"data set 'toy': valid is torch.float\d\d of shape"):
        make(valid=bad)
