"""A diagnosis goes on where it stopped, and lands in one tree."""

import json
import shutil
from dataclasses import replace
from functools import wraps

import numpy as np
import pytest
import torch
import xarray as xr

from ppl_vae.evidence.annealing import _pilot as pilot
from ppl_vae.identity import identity_of, state
from ppl_vae.netcdf import load_netcdf
from ppl_vae.refinement import Refinement
from ppl_vae.report import write_diagnosis
from ppl_vae.runs import (
    DiagnosisSettings,
    RunConfig,
    diagnose_run,
    key_of,
    open_run,
    train_run,
)  # fmt: skip
from ppl_vae.runs import _diagnose as diagnose

CONFIG = RunConfig.of(
    hidden=(8,), latent=2, epochs=2, batch_size=400, validation_particles=2, learning_rate=0.01
)
SETTINGS = {"particles": 20, "rate_data": 2, "temperatures": 10, "chains": 4}
PARTS = [
    "decomposition", "surgery", "evidence", "train_evidence", "inference_gap",
    "inference_gap_train", "bound_curve", "calibration", "predictive_check", "rate_distortion",
]  # fmt: skip
CHECKED = "predictive_check", "observed_data", "prior_predictive", "posterior_predictive"
"""Groups of a predictive check."""


def small(run, *, limit=20, split="test", seed=0, report=lambda line: None, **settings):
    chosen = DiagnosisSettings(**SETTINGS | settings)
    return diagnose_run(run, chosen, limit=limit, split=split, seed=seed, report=report)


def replaced(monkeypatch, **by_name):
    """Other functions in the list of diagnoses, under their names."""
    entries = [replace(e, compute=by_name.get(e.name, e.compute)) for e in diagnose.DIAGNOSES]
    monkeypatch.setattr(diagnose, "DIAGNOSES", entries)


@pytest.fixture(scope="module", autouse=True)
def short_refinement():
    """What a diagnosis keeps and reads back does not depend on how good guides and steps are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(diagnose, "_REFINEMENT", Refinement(3))
        patch.setattr(pilot, "_WARM_UP", 2)
        patch.setattr(pilot, "_TRANSITIONS", 4)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("diagnose") / "run"
    train_run(CONFIG, folder, progress=False)
    return folder


@pytest.fixture(scope="module")
def found(folder):
    return small(open_run(folder))


@pytest.fixture
def copy(found, folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


@pytest.fixture
def quick(found, monkeypatch):
    """Every diagnostic states what it is of, and gives at once what it found before."""
    named = {
        entry.name: at_once(entry.compute, found.results.get(entry.name, found["evidence"]))
        for entry in diagnose.DIAGNOSES
        if entry.name != "generalization_gap"
    }
    # Another number for every number of particles.
    for name in ("evidence", "train_evidence"):
        named[name] = at_once(diagnose._evidence, found["evidence"], by="particles")
    replaced(monkeypatch, **named)


def at_once(function, result, by=None):
    """The function without its work."""

    @wraps(function)
    def call(*args, **kwargs):
        state(identity_of(lambda: function(*args, **kwargs)))
        return replace(result, log_prob=result.log_prob + kwargs[by]) if by else result

    return call


def again(folder, **options):
    """The parts that were read back, and those that were not."""
    lines = []
    result = small(open_run(folder), **options, report=lines.append)
    said = dict(line.split(": ", 1) for line in lines)
    return result, {name for name in said if said[name] == "read back"}, set(said)


def require_same(a, b):
    assert a.summary() == b.summary()
    xr.testing.assert_identical(a.to_datatree(), b.to_datatree())


class TestGoesOn:
    def test_reads_back_the_same_numbers(self, found, copy):
        result, read, said = again(copy)
        assert read == said == set(PARTS)
        require_same(result, found)
        assert str(result) == str(found)
        assert torch.equal(result["evidence"].log_prob, found["evidence"].log_prob)

    def test_after_an_interruption(self, found, folder, tmp_path, monkeypatch):
        copy = shutil.copytree(
            folder, tmp_path / "copy", ignore=shutil.ignore_patterns("diagnosis*")
        )

        def stop(*_, **__):
            raise KeyboardInterrupt

        with monkeypatch.context() as context:
            replaced(context, inference_gap=wraps(diagnose.inference_gap)(stop))
            with pytest.raises(KeyboardInterrupt):
                again(copy)
        result, read, said = again(copy)
        assert read == set(PARTS[:4])
        assert said == set(PARTS)
        # Everything but the time that the evidence took.
        evidence = replace(result["evidence"], seconds=found["evidence"].seconds)
        require_same(replace(result, results={**result.results, "evidence": evidence}), found)

    def test_nothing_unfinished_is_left_behind(self, copy):
        assert not list(copy.glob("unfinished-*"))

    @pytest.mark.usefixtures("quick")
    @pytest.mark.parametrize(
        ("options", "anew"),
        [
            (
                {"particles": 30},
                {"evidence", "train_evidence", "inference_gap", "inference_gap_train"},
            ),
            ({"temperatures": 11}, {"rate_distortion"}),
            ({"chains": 5}, {"rate_distortion"}),
            ({"rate_data": 3}, {"rate_distortion"}),
            ({"seed": 1}, set(PARTS)),
            # What is of the same rows is the same number.
            ({"limit": 21}, set(PARTS) - {"rate_distortion"}),
            ({"split": "valid"}, set(PARTS) - {"train_evidence", "inference_gap_train"}),
        ],
        ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
    )
    def test_other_settings_are_computed_anew(self, copy, options, anew):
        _, read, said = again(copy, **options)
        assert said - read == anew

    @pytest.mark.usefixtures("quick")
    def test_a_run_trained_on_is_another(self, copy):
        train_run(CONFIG.changed(epochs=3), copy, progress=False)
        _, read, _ = again(copy)
        assert read == set()

    def test_a_damaged_file_is_said(self, copy):
        path = copy / diagnose.KEPT_FILE
        path.write_bytes(path.read_bytes()[:1000])
        with pytest.raises(ValueError, match=r"diagnosis-results\.safetensors is damaged"):
            again(copy)


class TestLeftOut:
    def test_what_was_not_asked_for(self, copy):
        result, _, _ = again(copy, rate_data=0)
        assert "rate_distortion" not in result
        assert result.left_out == {"rate_distortion": "not asked for"}
        assert "rate_distortion" not in result.to_datatree().children

    @pytest.mark.usefixtures("quick")
    def test_what_cannot_be_had(self, copy, monkeypatch):
        def refuse(*_, **__):
            raise ValueError("latent site 'z' is discrete")

        replaced(monkeypatch, rate_distortion=wraps(diagnose._rate_distortion)(refuse))
        result, _, _ = again(copy, chains=6)
        assert result.left_out == {"rate_distortion": "latent site 'z' is discrete"}
        assert "left out, rate_distortion: latent site 'z' is discrete" in str(result)
        assert result.to_datatree().attrs["left_out"] == (
            "rate_distortion: latent site 'z' is discrete"
        )

    def test_a_guide_that_cannot_be_moved(self, tmp_path):
        config = CONFIG.changed(prior="bernoulli", guide="bernoulli", objective="vimco:2")
        run, _ = train_run(config, tmp_path / "run", progress=False)
        result = small(run)
        assert set(result.left_out) == {"inference_gap", "inference_gap_train", "rate_distortion"}
        assert "is discrete" in result.left_out["rate_distortion"]
        assert set(result.to_datatree().children) == {
            "decomposition", "surgery", "evidence", "bound_curve", "prior_sbc", *CHECKED
        }  # fmt: skip

    @pytest.mark.usefixtures("quick")
    def test_without_evidence_there_is_no_gap(self, copy, monkeypatch):
        def refuse(*_, **__):
            raise ValueError("no")

        replaced(monkeypatch, evidence=wraps(diagnose._evidence)(refuse))
        result, _, _ = again(copy, particles=40)
        assert not {"evidence", "inference_gap", "generalization_gap"} & set(result.results)
        assert "decomposition" in result
        with pytest.raises(KeyError, match="no result 'evidence': no"):
            result["evidence"]

    def test_statistics_of_columns_of_several_kinds(self, tmp_path, monkeypatch):
        lines = [f"{i % 7 / 2},{'abc'[i % 3]}" for i in range(40)]
        (tmp_path / "x.csv").write_text("\n".join(["size,colour", *lines]))
        config = CONFIG.changed(data=str(tmp_path / "x.csv"))
        run, _ = train_run(config, tmp_path / "run", progress=False)
        entries = [e for e in diagnose.DIAGNOSES if e.name == "predictive_check"]
        monkeypatch.setattr(diagnose, "DIAGNOSES", entries)
        assert "these columns are categorical, real" in small(run).left_out["predictive_check"]

    @pytest.mark.usefixtures("quick_noise")
    def test_residuals_of_a_model_without_an_encoder(self, tmp_path, monkeypatch):
        """A prior in place of a guide would blame a right model."""
        config = CONFIG.changed(model="gan", objective="auto", latent=3)
        run, _ = train_run(config, tmp_path / "run", progress=False)
        entries = [e for e in diagnose.DIAGNOSES if e.name == "predictive_check"]
        monkeypatch.setattr(diagnose, "DIAGNOSES", entries)
        names = small(run)["predictive_check"].names
        assert "mean" in names
        assert "squared_residual" not in names

    @pytest.mark.parametrize(
        ("options", "reason"),
        [({"limit": 1}, "needs 2 data for"), ({"particles": 1}, "particles must be 2 or more")],
    )
    def test_too_few(self, copy, options, reason):
        with pytest.raises(ValueError, match=reason):
            again(copy, **options)


class TestParts:
    def test_full_covariance_where_the_guide_allows_it(self, found):
        assert found["inference_gap"].correlation is not None
        assert found["inference_gap_train"].correlation is None

    def test_one_latent_has_no_covariance(self, tmp_path, monkeypatch):
        run, _ = train_run(CONFIG.changed(latent=1), tmp_path / "run", progress=False)
        assert not diagnose._takes_full_covariance(run, run.rows("test", 2).x)

    def test_summary(self, found):
        assert set(json.loads(json.dumps(found.summary()))) == {
            "decomposition", "surgery", "evidence", "inference_gap", "generalization_gap",
            "bound_curve", "calibration", "predictive_check", "rate_distortion", "left_out",
            "identity",
        }  # fmt: skip
        assert found["generalization_gap"].test == found["inference_gap"].amortization

    def test_one_figure_of_all(self, found):
        """A part's class draws itself: the diagnosis knows none of them."""
        panels = found.plot().axes
        assert len(panels) == len(found._panels()) >= 7

    def test_files(self, found, tmp_path):
        paths = write_diagnosis(found, tmp_path, "small")
        stem = f"diagnosis-{key_of(found.identity)}"
        assert {path.name.removeprefix(stem) for path in paths} == {
            ".json", ".nc", "-decomposition.png", "-evidence.png", "-bound_curve.png",
            "-rate_distortion.png", "-calibration.png", "-ranks.png", "-predictive_check.png",
        }  # fmt: skip
        assert {path.parent for path in paths} == {tmp_path / "evaluations"}
        tree = load_netcdf(tmp_path / "evaluations" / f"{stem}.nc")
        assert tree.attrs["title"] == "small"
        assert tree.attrs["left_out"] == ""
        assert tree["evidence"].attrs["warning"] == (found["evidence"].warning or "")
        assert tree["bound_curve"].attrs["notes"] == "; ".join(found["bound_curve"].notes)
        np.testing.assert_array_equal(tree["evidence"]["log_prob"], found["evidence"].log_prob)
        assert set(tree.children) == {
            "decomposition", "surgery", "evidence", "inference_gap", "inference_gap_train",
            "generalization_gap", "bound_curve", "prior_sbc", "rate_distortion", *CHECKED,
        }  # fmt: skip
