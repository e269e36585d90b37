"""What an update costs beside its gradient."""

import copy
import sys
from pathlib import Path

import torch
from programs import binary_vae
from torch import nn

import ppl_vae
from ppl_vae._adam import FusedAdam
from ppl_vae.objectives import ELBO
from ppl_vae.training import Step
from ppl_vae.training._non_finite import all_finite

from .helpers import X, train


class DoesNothing(Step):
    """A step without an update."""

    def make_optimizers(self):
        return []

    def __call__(self, x, learning_rate):
        return x.new_zeros(3)


def calls_of(updates):
    """Calls of this package's functions in a fit; not those of the tests' checks of shapes."""
    folder, calls = str(Path(ppl_vae.__file__).parent), 0

    def count(frame, event, argument):
        nonlocal calls
        calls += event == "call" and frame.f_code.co_filename.startswith(folder)

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        train(objective=ELBO(), step=DoesNothing, epochs=None, updates=updates, batch_size=1)
    finally:
        sys.setprofile(before)
    return calls


def test_fit_calls_few_functions_an_update():
    """Twelve: for the fraction of the budget, the batch, the rate, the average and the step."""
    calls_of(1)
    # Both end within the first epoch, so that nothing but updates differs.
    assert (calls_of(38) - calls_of(8)) / 30 <= 13


def parameters(dtype=torch.float32):
    draws = torch.Generator().manual_seed(0)
    shapes = [(7, 3), (7,), (2, 7), (2,), ()]
    return [nn.Parameter(torch.randn(s, generator=draws, dtype=dtype)) for s in shapes]


def updates(optimizer, values, count, missing=lambda update, i: False, seed=1):
    draws = torch.Generator().manual_seed(seed)
    for update in range(count):
        optimizer.param_groups[0]["lr"] = 0.1 / (1 + update)
        for i, value in enumerate(values):
            gradient = torch.randn(value.shape, generator=draws, dtype=value.dtype)
            value.grad = None if missing(update, i) else gradient
        optimizer.step()


def require_same(ours, ours_values, theirs, theirs_values):
    for a, b in zip(ours_values, theirs_values, strict=True):
        assert torch.equal(a, b)
        assert ours.state[a].keys() == theirs.state[b].keys()
        for key, value in ours.state[a].items():
            assert torch.equal(value, theirs.state[b][key])
            assert value.dtype == theirs.state[b][key].dtype


def both(missing, dtype=torch.float32, betas=(0.9, 0.999), eps=1e-8):
    a, b = parameters(dtype), parameters(dtype)
    ours = FusedAdam(a, betas=betas, eps=eps)
    theirs = torch.optim.Adam(b, betas=betas, eps=eps, fused=True)
    updates(ours, a, 20, missing)
    updates(theirs, b, 20, missing)
    require_same(ours, a, theirs, b)
    return ours, a, theirs, b


def test_fused_adam_is_torchs_bit_for_bit():
    for dtype in (torch.float32, torch.float64):
        both(lambda update, i: False, dtype)
    both(lambda update, i: False, betas=(0.5, 0.9), eps=1e-3)


def test_fused_adam_passes_over_parameters_without_a_gradient():
    """By turns, never and now and then: their moments and step counts stay."""
    ours, a, _, _ = both(lambda update, i: (update + i) % 2 == 0 or i == 2)
    assert ours.state[a[2]] == {}
    assert ours.state[a[0]]["step"].item() == 10
    both(lambda update, i: update % 3 == 0)


def test_fused_adam_goes_on_from_a_state():
    """The lists that it keeps are of the state that was loaded, not of that before."""
    ours, a, theirs, b = both(lambda update, i: update % 2 == i % 2)
    saved = theirs.state_dict()
    updates(ours, a, 3)
    with torch.no_grad():
        for value, start in zip(a, b, strict=True):
            value.copy_(start)
    # Torch's loader keeps the tensors that it is given.
    ours.load_state_dict(copy.deepcopy(saved))
    theirs.load_state_dict(saved)
    updates(ours, a, 5)
    updates(theirs, b, 5)
    require_same(ours, a, theirs, b)


def test_fused_adam_of_two_types_goes_torchs_way():
    """One call of the kernel takes one type."""
    a, b = ([*parameters(), *parameters(torch.float64)] for _ in range(2))
    ours, theirs = FusedAdam(a), torch.optim.Adam(b, fused=True)
    updates(ours, a, 4)
    updates(theirs, b, 4)
    require_same(ours, a, theirs, b)


def test_fused_adam_leaves_the_memory_between_a_parameters_elements_alone():
    """As of columns of a larger matrix, which the kernel would go through without a gap."""
    table = torch.arange(24.0).reshape(4, 6)
    columns, own = nn.Parameter(table[:, ::2]), nn.Parameter(table[:, ::2].clone())
    ours, theirs = FusedAdam([columns]), torch.optim.Adam([own])
    updates(ours, [columns], 4)
    updates(theirs, [own], 4)
    torch.testing.assert_close(columns, own)
    assert torch.equal(table[:, 1::2], torch.arange(24.0).reshape(4, 6)[:, 1::2])


def test_fused_adam_calls_the_hooks_of_an_optimiser():
    """Hooks of a step are torch's, the profiler's among them."""
    seen = []
    a = parameters()
    ours = FusedAdam(a)
    ours.register_step_post_hook(lambda *arguments: seen.append("after"))
    updates(ours, a, 2)
    assert seen == ["after", "after"]


def test_all_finite_sees_each_element_and_no_overflow():
    """A sum that overflows is none of the parameters'."""
    largest = torch.full((5,), torch.finfo(torch.float32).max)
    assert all_finite({"a": largest, "none": torch.zeros(0)})
    for bad in (float("nan"), float("inf"), -float("inf")):
        for i in range(5):
            values = largest.clone()
            values[i] = bad
            assert not all_finite({"good": torch.ones(2), "bad": values})


def test_batches_are_rows_in_the_order_of_the_epoch():
    """Every datum once an epoch, each in the batch of its row."""
    seen = []

    def see(batch):
        seen.append(batch.clone())
        return batch

    x = X.reshape(len(X), -1)
    vae = binary_vae()
    train(vae=vae, objective=ELBO(), step=DoesNothing, epochs=1, batch_size=7, transform=see)
    epoch = torch.cat(seen[-6:])
    assert [len(batch) for batch in seen[-6:]] == [7, 7, 7, 7, 6, 6]
    assert torch.equal(epoch.sort(0).values, x.sort(0).values)
    assert not torch.equal(epoch, x)
