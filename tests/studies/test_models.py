"""Models by name as a factor: cells, measures, page."""

import pytest

from ppl_vae.report import write_report
from ppl_vae.runs import RunConfig
from ppl_vae.studies import Method

from .small import carry_out, plan

SMALL = {"hidden": (8,), "latent": 3, "epochs": 2, "batch_size": 300, "validation_particles": 3}
SPARSE = "sparse:top,keep=5,codes=128,normals=1"
MODELS = ("vae", "autoencoder:1", SPARSE, "stacked:epochs=1,normals=1")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    study = plan(
        config=RunConfig.of(**SMALL),
        factors={"model": MODELS},
        seeds=(0,),
        methods=(Method("iwae", {"particles": 20, "refine": "laplace"}),),
        limit=8,
        measures=("decomposition", "bound_curve", "codes"),
    )
    return carry_out(tmp_path_factory.mktemp("models"), study)


def test_every_model_is_a_cell_of_one_comparison(results):
    assert [cell.state for cell in results.cells] == ["done"] * 4, results.warnings
    assert list(results.comparison().arms) == list(MODELS)
    assert list(results.evidence()) == list(MODELS)


def test_measures_of_codes(results):
    found = {cell.arm: cell.measures["codes"] for cell in results.cells}
    assert all(each["squared_error"] > 0 for each in found.values())
    sparse = found[SPARSE]
    assert sparse["active_share"] <= 5 / 128
    assert sparse["hoyer"] > found["vae"]["hoyer"]
    assert "bound_curve" not in results.of("autoencoder:1")[0].measures
    (stacked,) = results.of("stacked:epochs=1,normals=1")
    assert list(stacked.phases) == ["layer-1", "layer-2"]
    # The cost of pretraining is in that of training.
    (plain,) = results.of("autoencoder:1")
    assert stacked.updates == 2 * plain.updates


def test_the_page_says_what_a_model_does_not_have(results):
    page = write_report(results).read_text()
    section = page.partition('id="codes"')[2].partition("</section>")[0]
    assert "Hoyer sparsity" in section
    assert "none" in section
    assert "layer-2" in section


@pytest.mark.usefixtures("quick_noise")
def test_the_page_says_why_a_measure_is_missing(tmp_path, monkeypatch):
    # Which measures there are matters, and not how well they are estimated.
    monkeypatch.setattr("ppl_vae.studies._cell._GRADIENT_REPLICATES", 20)
    study = plan(
        config=RunConfig.of(**{**SMALL, "dequantize": 16, "likelihood": "normal"}),
        factors={"model": ("vae", "linear", "gan")},
        seeds=(0,),
        methods=(Method("auto", {"most": 2000}),),
        limit=6,
        measures=("decomposition", "bound_curve", "codes", "pictures", "gradients"),
    )
    results = carry_out(tmp_path, study)
    assert [cell.state for cell in results.cells] == ["done"] * 3, results.warnings
    found = {cell.arm: cell.measures.get("lacking") for cell in results.cells}
    assert found["vae"] is None
    assert set(found["linear"]) == {"gradients"}
    assert set(found["gan"]) == {"decomposition", "bound_curve", "gradients"}
    assert "reconstruction" not in results.of("gan")[0].pictures
    page = write_report(results).read_text()
    section = page.partition('id="lacking"')[2].partition("</section>")[0]
    assert "training by adversarial ascends no objective" in section
    assert "the guide is the prior" in section
    settings = page.partition("All settings that the arms share")[2].partition("</pre>")[0]
    assert "dequantize: 16" in settings
    assert "objective:" not in settings
