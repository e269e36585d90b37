"""Training on rows that are read as they are asked for is training on those in memory."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from counted_rows import CountedRows

from ppl_vae.data import LazyRows, _rows
from ppl_vae.evidence import AdaptiveSampling, ImportanceSampling
from ppl_vae.runs import RunConfig, evaluate_run, open_run, train_run

from .helpers import VALID, X, same_state, train, without_seconds


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(_rows, "_CHUNK", 8 * X.shape[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_batches_and_numbers_are_the_same(dtype, small_chunks, tmp_path):
    held, ours = train(valid=VALID, checkpoint=tmp_path / "a")
    rows, valid = CountedRows(X.to(dtype)), CountedRows(VALID.to(dtype))
    lazy, theirs = train(x=rows, valid=valid, checkpoint=tmp_path / "b")
    assert same_state(held, lazy)
    assert without_seconds(ours.history) == without_seconds(theirs.history)
    # Each is the run of the other: a checkpoint has the hash of the rows, however they are kept.
    longer, _ = train(valid=VALID, epochs=5, checkpoint=tmp_path / "b")
    undisturbed, _ = train(valid=VALID, epochs=5)
    assert same_state(longer, undisturbed)


def test_no_more_rows_are_held_than_a_batch_and_one_pass_comes_first(small_chunks):
    rows, before = CountedRows(X), []

    def spy(batch):
        before.append(rows.total)
        return batch

    train(x=rows, epochs=2, batch_size=5, transform=spy)
    assert rows.most <= 8
    # The first call looks for parameters, on two rows; the second takes a sample of as many as a
    # batch has, and the third is the first update.
    assert before[2] <= len(X) + 5 * (2 + _rows.AHEAD) + 2
    assert rows.total <= len(X) * 3 + 5 + 2


def test_data_that_cannot_be_trained_on_are_refused_before_the_first_update():
    x = X.clone()
    x[31, 2] = torch.nan
    with pytest.raises(
        ValueError, match="train has 1 rows with NaN or infinite values, the first at row 31"
    ):
        train(x=CountedRows(x))


@pytest.mark.parametrize("estimator", [ImportanceSampling(5), AdaptiveSampling(first=4, most=16)])
def test_estimates_are_the_same_under_the_same_identity(estimator, small_chunks):
    vae, _ = train()
    held = estimator(vae.model, vae.guide, X)
    lazy = estimator(vae.model, vae.guide, CountedRows(X))
    assert torch.equal(held.log_prob, lazy.log_prob)
    assert held.identity.key == lazy.identity.key


def test_a_run_on_a_large_file(tmp_path, monkeypatch):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(300, 6)).astype("f4"))
    config = RunConfig.of(data=str(tmp_path / "x.npy"), likelihood="normal", latent=2, hidden=(4,),
                          epochs=2, prior="vamp:7", batch_size=50)  # fmt: skip
    held, _ = train_run(config, tmp_path / "held", progress=False)
    monkeypatch.setattr(_rows, "IN_MEMORY", 20 * 6 * 4)
    monkeypatch.setattr(_rows, "_CHUNK", 16 * 6)
    lazy, result = train_run(config, tmp_path / "lazy", progress=False)
    assert isinstance(lazy.dataset.train, LazyRows)
    assert lazy.data.sha256 == held.data.sha256
    assert torch.equal(lazy.data.rows, held.data.rows)
    # Means start outputs, and are summed in another order.
    bounds = [[r.bound for r in run.history.records] for run in (held, lazy)]
    assert bounds[0] == pytest.approx(bounds[1], rel=1e-4)
    opened = open_run(tmp_path / "lazy")
    evidence = evaluate_run(opened, estimator=ImportanceSampling(10), progress=False)
    again = evaluate_run(held, estimator=ImportanceSampling(10), progress=False)
    assert evidence.identity.rows == again.identity.rows
    assert evidence.mean == pytest.approx(again.mean, rel=1e-4)
    assert isinstance(opened.rows(limit=5).x, torch.Tensor)
    # A run that goes on finds the same data.
    _, result = train_run(config.changed(epochs=3), tmp_path / "lazy", progress=False)
    assert len(result.history) == 3


def test_a_prior_that_holds_all_rows_says_so(tmp_path, monkeypatch):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(300, 6)).astype("f4"))
    config = RunConfig.of(data=str(tmp_path / "x.npy"), likelihood="normal", prior="exemplar:9")
    monkeypatch.setattr(_rows, "IN_MEMORY", 20 * 6 * 4)
    with pytest.raises(ValueError, match="an exemplar prior needs all rows in memory"):
        train_run(config, tmp_path / "run", progress=False)


LIMITED = """
import resource, sys
import numpy as np, torch
import ppl_vae as pv
from programs import binary_vae

vae = binary_vae()
settings = dict(updates=3, batch_size=50, progress=False, device="cpu")
pv.training.fit(vae.model, vae.guide, pv.objectives.ELBO(), torch.zeros(200, 6), **settings)
status = open("/proc/self/status").read()
used = int(status.split("VmData:")[1].split()[0]) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (used + 215 * 2**20,) * 2)
x = np.load(sys.argv[1], mmap_mode="r")
try:
    np.array(x)
except MemoryError:
    print("refused")
pv.training.fit(vae.model, vae.guide, pv.objectives.ELBO(), x, **settings)
print("trained")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits private memory as Linux counts it")
def test_an_array_larger_than_memory_trains(tmp_path):
    # 240 MB where 225 may be taken, the order of the rows among them. The file of zeros has holes,
    # and takes no space.
    rows = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", "f4", (10_000_000, 6))
    del rows
    command = [sys.executable, "-c", LIMITED, str(tmp_path / "x.npy")]
    # Freed memory that the allocator keeps counts too: it gives it back here.
    env = {**os.environ, "MALLOC_TRIM_THRESHOLD_": "131072"}
    result = subprocess.run(
        command, capture_output=True, text=True, cwd="tests", check=False, env=env
    )
    # For rows in memory the limit is too small: it does limit.
    assert result.stdout.split() == ["refused", "trained"], result.stderr[-500:]
