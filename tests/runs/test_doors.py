"""Arguments of another class than expected end in one line that says how to get the right one."""

import numpy as np
import pytest

from ppl_vae.comparison import compare
from ppl_vae.evidence import ImportanceSampling
from ppl_vae.imputation import impute_run
from ppl_vae.linear_gaussian import LinearGaussian
from ppl_vae.runs import RunConfig, diagnose_run, evaluate_run, train_run
from ppl_vae.studies import Method, Place, Study, open_study, run_study

pytestmark = pytest.mark.usefixtures("unchecked_types")

MODEL = LinearGaussian.random(3, 2, 0.5, seed=1)
SMALL = {"hidden": (4,), "latent": 1, "epochs": 1, "batch_size": 600, "validation_particles": 2}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("doors")
    np.save(folder / "x.npy", (np.random.default_rng(0).random((60, 3)) < 0.5).astype("f4"))
    config = RunConfig.of(data=str(folder / "x.npy"), **SMALL)
    return train_run(config, folder / "run", device="cpu", progress=False)[0]


def test_a_run_is_no_folder(run):
    estimator, message = ImportanceSampling(2), r"run is the str '.*', expected a Run: open_run"
    for act in (
        lambda given: evaluate_run(given, estimator=estimator),
        diagnose_run,
        impute_run,
    ):
        with pytest.raises(TypeError, match=message):
            act("run")


@pytest.mark.parametrize("estimator", [ImportanceSampling, "iwae", None])
def test_an_estimator_is_an_instance(run, estimator):
    with pytest.raises(TypeError, match=r"estimator is .*: give an instance, such as Importance"):
        evaluate_run(run, estimator=estimator)


def test_settings_of_a_diagnosis_are_no_mapping(run):
    with pytest.raises(TypeError, match=r"settings is .*, expected a DiagnosisSettings"):
        diagnose_run(run, {"particles": 5})


def test_a_study_is_no_file_and_its_folder_may_be_text(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TypeError, match=r"study is the str 's.yaml', expected a Study: read_study"):
        run_study("s.yaml", "s")
    method = Method("iwae", {"particles": 2})
    study = Study(run.config, {"objective": ("elbo",)}, (0,), (method,), measures=())
    run_study(study, "s", place=Place(device="cpu"), progress=False)
    assert len(open_study("s").in_state("done")) == 1


@pytest.mark.parametrize("levels", ["elbo", 3])
def test_levels_are_a_list(levels):
    with pytest.raises(ValueError, match="factor objective is a list of levels, got"):
        Study(RunConfig(), {"objective": levels})


def test_a_comparison_takes_arms_by_seeds():
    evidence = ImportanceSampling(2)(MODEL.vae().model, MODEL.vae().guide, MODEL.simulate(3))
    for given, message in (
        ([evidence], "evidence is .*, expected a Mapping: arm to seed"),
        ({"a": [evidence]}, r"evidence\['a'\] is .*, expected a Mapping: seed to"),
        ({"a": {0: 3.0}}, r"evidence\['a'\]\[0\] is 3.0, expected a Evidence"),
    ):
        with pytest.raises(TypeError, match=message):
            compare(given)
