import math

import pytest
import torch
from scipy.stats import norm

from ppl_vae.data import Dataset, binarize_batch, binarize_static

Z_LIMIT = norm.isf(0.5e-6)  # two-sided false alarm 1e-6


def grey(n=300, features=50):
    x = torch.rand(n, features, generator=torch.Generator().manual_seed(1))
    return Dataset("grey", x, x.clone(), x.clone(), description="Grey.")


def z_score(draws, p):
    return abs((draws - p).sum().item()) / math.sqrt((p * (1 - p)).sum().item())


def test_none_changes_nothing():
    data = grey()
    assert data.binarized("none", 0) is data


def test_static_is_binary_reproducible_and_seeded():
    first, again, other = (grey().binarized("static", seed) for seed in (3, 3, 4))
    assert first.is_binary
    assert first.fingerprint() == again.fingerprint()
    for split in ("train", "valid", "test"):
        assert not torch.equal(getattr(first, split), getattr(other, split))
        assert z_score(getattr(first, split), grey().train) < Z_LIMIT
    assert first.description == "Grey. Binarised by one fixed Bernoulli draw per value (seed 3)."


def test_static_splits_are_independent():
    p = grey().train
    data = grey().binarized("static", 0)
    for a, b in [(data.train, data.valid), (data.train, data.test), (data.valid, data.test)]:
        product = (a - p) * (b - p)  # variance (p (1 - p))^2 under independence
        assert abs(product.sum()) / (p * (1 - p)).square().sum().sqrt() < Z_LIMIT


def test_static_leaves_the_global_stream_alone_and_apart():
    torch.manual_seed(5)
    expected = torch.rand(4)
    torch.manual_seed(5)
    grey().binarized("static", 5)
    assert torch.equal(torch.rand(4), expected)
    half = torch.full((1000,), 0.5)
    torch.manual_seed(5)
    agreement = (binarize_static(half, 5) == torch.bernoulli(half)).sum().item()
    assert abs(agreement - 500) / math.sqrt(250) < Z_LIMIT


def test_static_draws_are_pinned():
    # A run's data must stay the same from one version of this package to the next.
    drawn = binarize_static(torch.full((16,), 0.5), seed=0).int().tolist()
    assert drawn == [1, 0, 1, 1, 1, 1, 0, 0, 1, 0, 0, 1, 1, 1, 0, 1]


def test_static_of_binary_is_itself():
    ones = torch.eye(4)
    data = Dataset("binary", ones, ones, ones)
    assert data.binarized("static", 0).fingerprint() == data.fingerprint()


def test_dynamic_keeps_train_grey_and_fixes_the_rest_as_static_does():
    data, static = grey().binarized("dynamic", 7), grey().binarized("static", 7)
    assert torch.equal(data.train, grey().train)
    assert torch.equal(data.valid, static.valid)
    assert torch.equal(data.test, static.test)
    assert "dynamically" in data.description
    assert "(seed 7)" in data.description


def test_batches_are_drawn_afresh_with_the_right_mean():
    torch.manual_seed(0)
    p = grey().train
    first, second = binarize_batch(p), binarize_batch(p)
    assert not torch.equal(first, second)
    assert first.dtype == p.dtype
    for draws in (first, second):
        assert set(draws.unique().tolist()) == {0.0, 1.0}
        assert z_score(draws, p) < Z_LIMIT


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_batches_are_drawn_on_their_device():
    p = grey().train.cuda()
    draws = binarize_batch(p)
    assert draws.device == p.device
    assert z_score(draws, p) < Z_LIMIT


@pytest.mark.parametrize("mode", ["static", "dynamic"])
@pytest.mark.parametrize("value", [-0.25, 255.0, math.nan])
def test_values_outside_the_unit_interval(mode, value):
    x = torch.zeros(2, 2)
    bad = torch.tensor([[0.0, value]])
    with pytest.raises(
        ValueError, match=r"cannot binarise test of 'raw': .* rescale them"
    ) as error:
        Dataset("raw", x, x, bad).binarized(mode, 0)
    assert "\n" not in str(error.value)


def test_unknown_mode_and_negative_seed():
    with pytest.raises(ValueError, match="unknown binarisation 'fixed': choose one of none, stat"):
        grey().binarized("fixed", 0)
    with pytest.raises(ValueError, match="seed is -1, expected 0 or more"):
        grey().binarized("static", -1)
