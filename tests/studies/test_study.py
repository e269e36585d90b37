"""Studies carried out: cells share what they should, fail alone, and are done once."""

import json
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pyro.distributions as dist
import pytest
import torch

from ppl_vae.files import exclusive
from ppl_vae.netcdf import load_netcdf
from ppl_vae.objectives import ELBO
from ppl_vae.runs import evaluate_run, find_normalizers, open_run, train_run
from ppl_vae.studies import (
    Method,
    Place,
    format_status,
    open_study,
    run_cell,
    run_study,
    status_summary,
)
from ppl_vae.studies._results import last_epoch
from ppl_vae.studies._study import write_plan

from .small import CONFIG, STUDY, carry_out, plan, results_of

ESTIMATOR = Method("iwae", {"particles": 10}).build()


class Spoilt(ELBO):
    """An objective that training cannot carry out."""

    def bound(self, particles):
        raise ValueError("this objective\nis spoilt.")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    carry_out(folder)
    return folder


@pytest.fixture(scope="module")
def carried_out_once(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one-seed")
    carry_out(folder, plan(seeds=(0,)))
    return folder


@pytest.fixture
def one_seed(carried_out_once, tmp_path):
    """A finished study of seed 0, for one test to change."""
    return shutil.copytree(carried_out_once, tmp_path / "one-seed")


def same(a, b):
    """Whether two studies came to the same numbers, bit for bit."""
    first, second = results_of(a), results_of(b)
    for name in ("results", "cells", "curves"):
        pd.testing.assert_frame_equal(first[name], second[name], check_exact=True)
    return first["comparison"] == second["comparison"]


def test_every_cell_has_a_folder_of_its_own(folder):
    cells = {path.name for path in (folder / "cells").iterdir()}
    assert cells == {"elbo-seed0", "elbo-seed1", "iwae-2-seed0", "iwae-2-seed1"}
    one = {path.name for path in (folder / "cells" / "elbo-seed0").iterdir()}
    assert one >= {"config.json", "checkpoint.safetensors", "history.csv", "evaluations",
                   "measures.json", "pictures.npz", "log.txt", "run.json"}  # fmt: skip
    assert not (folder / "cells" / "elbo-seed1" / "pictures.npz").exists()


def test_arms_of_one_seed_start_from_the_same_parameters(tmp_path):
    still = plan(config=CONFIG.changed(epochs=1, learning_rate=1e-12), seeds=(0,))
    carry_out(tmp_path, still)
    runs = [open_run(tmp_path / "cells" / name, device="cpu")
            for name in ("elbo-seed0", "iwae-2-seed0")]  # fmt: skip
    for a, b in zip(*(run.vae.parameters() for run in runs), strict=True):
        torch.testing.assert_close(a, b)


def test_arms_of_one_seed_are_evaluated_on_the_same_data_with_the_same_draws(folder):
    values = pd.read_parquet(folder / "results.parquet").set_index(["arm", "seed", "datum"])
    assert len(values) == 2 * 2 * 60
    spread = values["log_prob"].unstack("arm")
    # Two models of the same data: what the data share is most of the spread.
    assert spread.corr().iloc[0, 1] > 0.9


def test_a_study_and_a_run_show_themselves_in_a_line(folder):
    results = open_study(folder)
    study = "Study(test log p(x) on digits: 2 arms x 2 seeds)"
    assert repr(results.study) == study
    assert repr(results) == f"StudyResults({str(folder)!r}: {study}, 4 of 4 cells done)"
    run = open_run(results.cells[0].folder)
    assert repr(run) == f"Run({str(run.folder)!r}: elbo on digits, seed 0, {run.history!r})"
    assert "tensor" not in repr(run.data)


def test_results_on_disk_are_one_another(folder):
    results = open_study(folder)
    comparison = results.comparison()
    summary = json.loads((folder / "comparison.json").read_text())
    assert summary["arms"]["elbo"]["mean"] == comparison.arms["elbo"].mean
    assert any("still rising" in note for note in summary["notes"])
    table = pd.read_parquet(folder / "results.parquet")
    assert set(table.columns) == {
        "arm", "objective", "seed", "method", "datum", "log_prob", "standard_error",
        "effective_sample_size", "pareto_k",
    }  # fmt: skip
    mean = table[table["arm"] == "elbo"]["log_prob"].mean()
    assert mean == pytest.approx(comparison.arms["elbo"].mean)
    tree = load_netcdf(folder / "results.nc")
    values = tree["evidence"]["log_prob"].sel(arm="elbo", seed=1)
    assert values.to_numpy().tolist() == (
        table.query("arm == 'elbo' and seed == 1")["log_prob"].tolist()
    )
    cells = pd.read_parquet(folder / "cells.parquet")
    assert cells["state"].tolist() == ["done"] * 4
    assert cells["updates"].tolist() == [3 * 5] * 4
    curves = pd.read_parquet(folder / "histories.parquet")
    bounds = curves.query("arm == 'elbo' and seed == 0 and quantity == 'bound'")["value"]
    assert bounds.tolist() == [r.bound for r in results.cells[0].history.records]


def test_the_manifest_says_how_it_was_done(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["versions"]["torch"] == torch.__version__.split("+")[0]
    assert manifest["seeds"] == [0, 1]
    assert manifest["data"]["num_test"] == 360
    assert manifest["engine"] == "InProcess"
    assert len(set(manifest["configs"].values())) == 4
    assert manifest["git"] is None or len(manifest["git"]["revision"]) == 40


def test_again_nothing_is_done_twice(folder):
    before = {path: path.stat().st_mtime_ns for path in (folder / "cells").rglob("*.*")}
    carry_out(folder)
    after = {path: path.stat().st_mtime_ns for path in (folder / "cells").rglob("*.*")}
    assert after == before


def test_more_seeds_later_are_as_if_planned_at_once(folder, one_seed):
    carry_out(one_seed)
    assert same(one_seed, folder)


def test_a_method_more_evaluates_and_does_not_train_again(one_seed):
    checkpoint = one_seed / "cells" / "elbo-seed0" / "checkpoint.safetensors"
    trained = checkpoint.stat().st_mtime_ns
    more = (*STUDY.methods, Method("psis", {"particles": 100}))
    results = carry_out(one_seed, plan(seeds=(0,), methods=more))
    assert checkpoint.stat().st_mtime_ns == trained
    assert results.comparison("psis") != results.comparison("iwae")
    methods = pd.read_parquet(one_seed / "results.parquet")["method"].unique().tolist()
    assert methods == ["iwae", "psis"]
    assert set(load_netcdf(one_seed / "results.nc").children) == {"evidence", "evidence_psis"}
    summary = json.loads((one_seed / "comparison.json").read_text())
    assert list(summary["methods"]) == ["psis"]


def test_other_settings_in_the_same_folder_are_refused(one_seed):
    with pytest.raises(ValueError, match=r"latent 2 there, 3 here.*choose another folder"):
        carry_out(one_seed, plan(seeds=(0,), config=CONFIG.changed(latent=3)))


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(ValueError, match="holds no study"):
        carry_out(tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "precious"
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": CONFIG.changed(data="nowhere.csv")}, "no such file"),
        ({"config": CONFIG.changed(guide="delta")}, "a point without a density"),
    ],
    ids=["data", "guide"],
)
def test_a_refused_plan_makes_no_folder(changes, message, tmp_path):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        carry_out(tmp_path / "study", plan(**changes))
    assert not (tmp_path / "study").exists()


def test_a_device_that_is_not_there_makes_no_folder(tmp_path):
    with pytest.raises(ValueError, match="device"):
        run_study(STUDY, tmp_path / "study", place=Place(device="gpu"), progress=False)
    assert not (tmp_path / "study").exists()


def test_a_cell_that_fails_is_recorded_and_the_others_are_done(tmp_path):
    spoilt = f"{__name__}:Spoilt"
    results = carry_out(tmp_path, plan(factors={"objective": ("elbo", spoilt)}))
    states = {cell.name: cell.state for cell in results.cells}
    assert states == {"elbo seed 0": "done", "elbo seed 1": "done",
                      f"{spoilt} seed 0": "failed", f"{spoilt} seed 1": "failed"}  # fmt: skip
    failed = results.in_state("failed")[0]
    assert failed.reason == "this objective is spoilt."
    assert "Traceback" in (failed.folder / "log.txt").read_text()
    assert list(results.comparison().arms) == ["elbo"]
    assert any("failed: this objective is spoilt." in note for note in results.warnings)
    assert "spoilt" in format_status(results)
    again = carry_out(tmp_path, plan(factors={"objective": ("elbo", spoilt)}))
    assert {cell.attempts for cell in again.in_state("failed")} == {2}
    assert {cell.attempts for cell in again.in_state("done")} == {1}


class WrongSize(torch.nn.Module):
    """A guide whose network has half of the outputs that it takes: no ``num_outputs`` is stated."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x):
        loc, scale = self.network(x).chunk(2, -1)
        return dist.Normal(loc, scale.exp()).to_event(1)


def test_an_arm_that_cannot_be_built_is_left_to_its_cells(tmp_path):
    guides = ("normal", f"{__name__}:WrongSize")
    results = carry_out(tmp_path, plan(factors={"guide": guides}, seeds=(0,)))
    assert [cell.state for cell in results.cells] == ["done", "failed"]
    assert "a layer of 2 inputs was given 1" in results.cells[1].reason


def test_arms_with_other_test_data_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"arms .* have other test data"):
        carry_out(tmp_path, plan(factors={"binarize": ("static", "none")},
                                 config=CONFIG.changed(likelihood="normal")))  # fmt: skip


def test_a_second_process_is_told_who_is_at_work(folder):
    with exclusive(folder / "study.lock", "another"), pytest.raises(BlockingIOError) as caught:
        carry_out(folder)
    assert f"process {os.getpid()}" in str(caught.value)


def test_no_study_in_a_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no study"):
        open_study(tmp_path)


@pytest.mark.parametrize("name", ["study.json", "manifest.json", "cells/elbo-seed0/run.json"])
def test_a_damaged_file_is_named(name, one_seed):
    (one_seed / name).write_text('{"state": ')
    with pytest.raises(ValueError, match="damaged"):
        open_study(one_seed)


def test_status_of_a_study_under_way(one_seed):
    done = next(cell for cell in open_study(one_seed).cells if cell.name == "elbo seed 0")
    replace(done, state="running", process=os.getpid()).write()
    # A seed more, none of whose cells are begun.
    write_plan(STUDY, one_seed)
    results = open_study(one_seed)
    states = [row["state"] for row in status_summary(results)["cells"]]
    assert sorted(states) == ["done", "running", "waiting", "waiting"]
    text = format_status(results)
    assert "1 done, 1 running, 2 waiting of 4 cells" in text
    assert "elbo seed 0: epoch 3 of 3, bound" in text


def test_a_cell_whose_process_has_ended_waits(one_seed):
    done = next(cell for cell in open_study(one_seed).cells if cell.name == "elbo seed 0")
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for process, state in [(os.getpid(), "running"), (ended.pid, "waiting")]:
        replace(done, state="running", host=socket.gethostname(), process=process).write()
        results = open_study(one_seed)
        assert results.cells[0].state == state
    text = format_status(results)
    assert "elbo seed 0 is to be done again: its process has ended, unfinished" in text


def test_what_a_plan_takes_from_the_tables_is_said(folder, tmp_path, caplog):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    carry_out(tmp_path, plan(seeds=(0, 1), question="Which?"))
    carry_out(tmp_path, plan(methods=(*STUDY.methods, Method("iwae:5"))))
    assert not caplog.messages
    carry_out(tmp_path, plan(seeds=(1,), limit=50))
    assert "held results of another plan (other seeds, evaluation)" in caplog.text


def test_a_learning_curve_that_is_being_written(tmp_path):
    assert last_epoch(tmp_path) is None
    (tmp_path / "history.csv").write_text("epoch,bound,seconds\n1,-30.0,0.1\n2,-29.0,0.1\n3,-2")
    assert last_epoch(tmp_path) == {"epoch": 2.0, "bound": -29.0}
    (tmp_path / "history.csv").write_text("epoch,bound,seconds\n")
    assert last_epoch(tmp_path) is None


KILLED = """
import sys
from pathlib import Path
from killed import killed_before
from studies.small import carry_out

folder = Path(sys.argv[1])
# Of the 392 changes of files that the whole study makes.
for number in (40, 120, 200):
    assert killed_before(number, lambda: carry_out(folder)), number
    assert (folder / "study.json").exists()
carry_out(folder)
"""


def test_killed_in_the_middle_of_changes_it_ends_in_the_same_results(folder, tmp_path, interpreter):
    """Children of one process, which need not import anything again."""
    done = interpreter.run(KILLED, tmp_path / "killed", cwd=Path(__file__).parents[1])
    assert done.returncode == 0, done.stderr
    assert same(folder, tmp_path / "killed")
    hidden = [path for path in (tmp_path / "killed").rglob(".*") if path.is_file()]
    assert len(hidden) <= 3


def test_a_cell_alone(tmp_path):
    cell = STUDY.cells[0], tmp_path, Place(device="cpu")
    first = run_cell(*cell)
    assert first.state == "done"
    assert run_cell(*cell) == first


def test_what_cannot_be_recorded_of_a_failure_is_raised(tmp_path, monkeypatch):
    """An earlier failure must not stand for the one that the disk has no room for."""
    plan_of_cell, place = STUDY.cells[0], Place(device="cpu")
    monkeypatch.setattr("ppl_vae.studies._cell._carry_out", lambda *_: 1 / 0)
    assert run_cell(plan_of_cell, tmp_path, place).state == "failed"

    def full(self):
        raise OSError("no space left")

    monkeypatch.setattr("ppl_vae.runs._record.RunRecord.write", full)
    with pytest.raises(OSError, match="no space left"):
        run_cell(plan_of_cell, tmp_path, place)


def test_sharded_evaluation(carried_out_once, tmp_path):
    parts = carry_out(tmp_path, plan(seeds=(0,), shards=3))
    a, b = (results.evidence()["elbo"][0] for results in (open_study(carried_out_once), parts))
    assert len(a) == len(b) == 60
    assert not torch.equal(a.log_prob, b.log_prob)


def test_a_run_reopened_gives_the_same_evidence(tmp_path):
    run, _ = train_run(CONFIG, tmp_path / "run", device="cpu", progress=False)
    expected = evaluate_run(run, estimator=ESTIMATOR, progress=False)
    shutil.rmtree(tmp_path / "run" / "evaluations")
    reopened = open_run(tmp_path / "run", device="cpu")
    evidence = evaluate_run(reopened, estimator=ESTIMATOR, progress=False)
    assert torch.equal(evidence.log_prob, expected.log_prob)


def test_a_limit_takes_the_same_random_subset(tmp_path):
    run, _ = train_run(CONFIG, tmp_path / "run", device="cpu", progress=False)
    part = run.rows("test", 50).x
    assert part.shape == (50, 64)
    assert torch.equal(part, run.rows("test", 50).x)
    assert not torch.equal(part, run.rows("test").x[:50])
    assert torch.equal(run.rows("test", 10_000).x, run.rows("test").x)


@pytest.mark.parametrize("likelihood", ["optimal-sigma", "normal:feature", "laplace"])
def test_what_training_keeps_outside_of_parameters_is_read_back(likelihood, tmp_path):
    config = CONFIG.changed(likelihood=likelihood)
    run, _ = train_run(config, tmp_path / "run", device="cpu", progress=False)
    x = run.dataset.test[:20]
    trained = ESTIMATOR(run.vae.eval().model, run.vae.guide, x)
    again = open_run(tmp_path / "run", device="cpu")
    found = ESTIMATOR(again.vae.model, again.vae.guide, x)
    assert torch.equal(trained.log_prob, found.log_prob)


def test_a_density_and_a_probability_do_not_compare(tmp_path):
    mixed = plan(factors={"likelihood": ("bernoulli", "normal")}, seeds=(0,),
                 config=CONFIG.changed(binarize="static"))  # fmt: skip
    results = carry_out(tmp_path, mixed)
    assert any("do not compare" in note for note in results.warnings)
    assert results.comparison().differences == {}


def test_what_has_one_measure_is_compared_beside_what_has_another(tmp_path):
    mixed = plan(factors={"objective": ("elbo", "iwae:2"), "likelihood": ("bernoulli", "normal")},
                 seeds=(0,), config=CONFIG.changed(binarize="static"))  # fmt: skip
    comparison = carry_out(tmp_path, mixed).comparison()
    assert list(comparison.differences) == [
        ("iwae:2 bernoulli", "elbo bernoulli"), ("iwae:2 normal", "elbo normal"),
    ]  # fmt: skip
    assert list(comparison.factors["objective"].differences) == [("iwae:2", "elbo")]
    assert comparison.factors["likelihood"].differences == {}


@pytest.mark.filterwarnings("ignore:training has diverged:UserWarning")
def test_a_run_that_diverged_is_said_by_its_name(tmp_path):
    results = carry_out(tmp_path, plan(config=CONFIG.changed(learning_rate=1e6), seeds=(0,)))
    found = [note for note in results.warnings if "training has diverged" in note]
    assert [note.partition(": ")[0] for note in found] == [cell.name for cell in results.cells]
    assert "training has diverged" in (tmp_path / "comparison.json").read_text()


@pytest.mark.parametrize(
    ("settings", "wants"),
    [
        ({"epochs": 3}, "a larger budget"),
        ({"epochs": 400, "patience": 1, "learning_rate": 3e-3}, "more patience"),
    ],
)
def test_a_rise_that_was_cut_off_says_what_was_short(tmp_path, settings, wants):
    results = carry_out(tmp_path, plan(config=CONFIG.changed(**settings), seeds=(0,)))
    (note,) = [note for note in results.warnings if "still rising" in note]
    assert f"with {wants} the comparison" in note


def test_an_estimated_constant_is_said_of_its_arm(tmp_path):
    """Its error is one for all data: no interval of the comparison shows it."""
    energy = {
        "class_path": "ppl_vae.priors.EnergyPrior",
        "init_args": {"hidden": [4], "evaluation_draws": 500},
    }
    results = carry_out(tmp_path, plan(factors={"prior": ("normal", energy)}, measures=()))
    arm = next(arm for arm in results.study.arms if arm != "normal")
    (note,) = [note for note in results.warnings if "log Z" in note]
    errors = [
        find_normalizers(open_run(cell.folder).vae)[0].standard_error for cell in results.of(arm)
    ]
    assert note.startswith(f"{arm}: ")
    assert f"{max(errors):.2g} nats" in note
    assert note in (tmp_path / "comparison.json").read_text()


def test_work_that_is_not_a_training_run(tmp_path):
    names = []

    def nothing(plan, folder, place):
        names.append(plan.name)
        raise RuntimeError("no room")

    results = run_study(STUDY, tmp_path, work=nothing, progress=False)
    assert len(names) == 4
    assert {cell.reason for cell in results.in_state("failed")} == {"RuntimeError: no room"}
