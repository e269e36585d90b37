"""A run of any part opens without its data, to the model that was trained."""

import numpy
import pandas
import pytest
import torch

from ppl_vae.evidence import ImportanceSampling
from ppl_vae.registry import GUIDES, LIKELIHOODS, PRIORS
from ppl_vae.report import write_sample_figures
from ppl_vae.runs import DiagnosisSettings, RunConfig, diagnose_run, open_run, train_run

DRAWS = ImportanceSampling(3)
OTHER = {
    "prior": {"bernoulli", "autoregressive-bernoulli", "rbm", "categorical", "sphere", "exemplar"},
    "guide": {"ladder", "delta", "sparse", "bernoulli", "categorical", "sphere"},
    "likelihood": {"bernoulli", "table", "pixel-cnn"},
}
"""Those that need another prior, guide or kind of data."""
GIVEN = {"vamp": "vamp:5", "categorical": "categorical:2"}
CASES = [
    (kind, name)
    for kind, names in (("prior", PRIORS), ("guide", GUIDES), ("likelihood", LIKELIHOODS))
    for name in names
    if name not in OTHER[kind]
]


def trained(tmp_path, values, **settings):
    numpy.save(tmp_path / "x.npy", values)
    config = RunConfig.of(
        data=str(tmp_path / "x.npy"), hidden=(4,), latent=2, epochs=1, validation_particles=2,
        **settings,
    )  # fmt: skip
    run, _ = train_run(config, tmp_path / "run", device="cpu", progress=False)
    (tmp_path / "x.npy").unlink()
    return run


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_opens_to_the_same_model(kind, name, tmp_path):
    draws = numpy.random.default_rng(0)
    values = draws.integers(0, 2, (60, 4)).astype(numpy.float32)
    if kind == "likelihood" and name in ("beta", "continuous-bernoulli"):
        values = draws.uniform(0.1, 0.9, (60, 4)).astype(numpy.float32)
    run = trained(tmp_path, values, binarize="none", **{kind: GIVEN.get(name, name)})
    x = run.dataset.test[:5]
    again = open_run(tmp_path / "run", device="cpu")
    expected, found = (DRAWS(r.vae.eval().model, r.vae.guide, x, seed=0) for r in (run, again))
    assert torch.equal(found.log_prob, expected.log_prob)


def test_what_needs_the_rows_names_the_file(tmp_path):
    values = numpy.random.default_rng(0).normal(size=(60, 4)).astype(numpy.float32)
    trained(tmp_path, values, likelihood="normal")
    run = open_run(tmp_path / "run", device="cpu")
    with pytest.raises(FileNotFoundError) as error:
        diagnose_run(run)
    assert str(error.value) == (
        f"the run in {tmp_path / 'run'} was trained on {tmp_path / 'x.npy'}, which is not there: "
        "bring it back, or give other rows, file=FILE."
    )
    numpy.save(tmp_path / "other.npy", values[:20])
    few = DiagnosisSettings(particles=20, rate_data=0)
    found = diagnose_run(run, few, file=tmp_path / "other.npy")
    assert found.left_out["inference_gap_train"] == "the training data are not there"
    assert {"decomposition", "evidence", "calibration"} <= set(found.results)


@pytest.mark.parametrize("table", [False, True])
def test_samples_of_the_prior_need_no_data(table, tmp_path, caplog):
    rows = numpy.random.default_rng(0).normal(size=(60, 3)).astype(numpy.float32)
    file, other = (tmp_path / f"{name}.{'csv' if table else 'npy'}" for name in ("x", "other"))
    for path in (file, other):
        if table:
            pandas.DataFrame(rows, columns=["a", "b", "c"]).to_csv(path, index=False)
        else:
            numpy.save(path, rows)
    config = RunConfig.of(
        data=str(file), likelihood="table" if table else "normal", hidden=(4,), latent=2, epochs=1,
        validation_particles=2,
    )  # fmt: skip
    train_run(config, tmp_path / "run", device="cpu", progress=False)
    file.unlink()
    run = open_run(tmp_path / "run", device="cpu")
    with caplog.at_level("INFO", "ppl_vae"):
        assert [path.name for path in write_sample_figures(run, count=4)] == ["samples.png"]
    assert "no reconstructions: the run in" in caplog.text
    names = [path.name for path in write_sample_figures(run, count=4, file=other)]
    assert names == ["samples.png", "reconstructions.png"]
    with pytest.raises(FileNotFoundError, match=r"none\.npy: no such file"):
        write_sample_figures(run, file=tmp_path / "none.npy")


def test_a_prior_that_holds_training_rows_needs_them(tmp_path):
    values = numpy.random.default_rng(0).integers(0, 2, (60, 4)).astype(numpy.float32)
    trained(tmp_path, values, prior={"class_path": "ppl_vae.priors.ExemplarPrior",
                                     "init_args": {"exemplars": 5}})  # fmt: skip
    with pytest.raises(FileNotFoundError, match=r"x\.npy, which is not there: bring it back"):
        open_run(tmp_path / "run", device="cpu")
