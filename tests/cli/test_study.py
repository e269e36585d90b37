"""``ppl-vae study`` as a careless user drives it."""

import json

import numpy as np
import pytest

from .command import fails, run

STUDY = """\
config: {data: digits, hidden: [8], latent: 2, batch_size: 400, validation_particles: 2}
factors: {objective: [elbo, "iwae:2"]}
seeds: 2
budget: {epochs: 2}
evaluation: {limit: 50, methods: [{method: iwae, particles: 10}]}
measures: [decomposition]
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(STUDY)
    return path


def test_init_run_status_report_add(file, tmp_path, capsys, monkeypatch):
    status, out, err = run(capsys, "study", "run", file)
    assert status == 0, err
    folder = tmp_path / "mine"
    assert "iwae:2 - elbo" in out
    assert str(folder / "report.html") in out
    assert "elbo seed 0: done" in err
    for name in ("report.html", "comparison.json", "results.parquet", "results.nc", "curves.png"):
        assert (folder / name).stat().st_size > 100, name
    status, out, _ = run(capsys, "study", "status", file)
    assert status == 0
    assert "4 done of 4 cells" in out
    status, out, err = run(capsys, "study", "add", file, "--seeds", 1, "--level", "objective=stl")
    assert (status, err) == (0, "")
    assert "3 arms x 3 seeds = 9 cells" in out
    # By the file what it plans now, by the folder what was carried out.
    assert "4 done, 5 waiting of 9 cells" in run(capsys, "study", "status", file)[1]
    assert "4 done of 4 cells" in run(capsys, "study", "status", folder)[1]
    with monkeypatch.context() as without_page:
        without_page.setattr("ppl_vae.report.write_report", lambda results: results.folder)
        status, out, err = run(capsys, "study", "run", file, "--json")
    assert status == 0, err
    values = json.loads(out)
    assert list(values["arms"]) == ["elbo", "iwae:2", "stl"]
    assert values["num_seeds"] == 3
    assert err.count("elbo seed") == 1
    (folder / "report.html").unlink()
    status, out, _ = run(capsys, "study", "report", folder)
    assert status == 0
    assert (folder / "report.html").exists()
    cells = json.loads(run(capsys, "study", "status", folder, "--json")[1])["cells"]
    assert {cell["state"] for cell in cells} == {"done"}


def test_init_writes_a_study_and_nothing_over_it(tmp_path, capsys):
    path = tmp_path / "new.yaml"
    status, out, _ = run(capsys, "study", "init", path)
    assert status == 0
    assert "2 arms x 5 seeds = 10 cells" in out
    before = path.read_text()
    path.write_text(before + "# changed\n")
    assert "--force" in fails(capsys, "study", "init", path)
    assert path.read_text().endswith("# changed\n")
    assert run(capsys, "study", "init", path, "--force")[0] == 0
    assert path.read_text() == before
    assert "new.yaml" in fails(capsys, "study", "init", tmp_path / "new.toml")


@pytest.mark.usefixtures("no_page")
def test_a_failed_cell_is_a_failure_after_the_table(file, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "spoilt_objective.py").write_text(
        "from ppl_vae.objectives import ELBO\n\n\nclass Spoilt(ELBO):\n"
        "    def bound(self, particles):\n        raise ValueError('spoilt.')\n"
    )
    file.write_text(STUDY.replace('"iwae:2"', '"spoilt_objective:Spoilt"'))
    assert "give --trust" in fails(capsys, "study", "run", file)
    status, out, err = run(capsys, "study", "run", file, "--trust")
    assert status == 1
    assert "elbo" in out
    assert "failed: spoilt." in out
    assert "2 of 4 cells failed" in err.splitlines()[-1]
    assert "log.txt" in err.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "expected", "code"),
    [
        (["study", "run", "none.yaml"], "ppl-vae study init", 1),
        (["study", "status", "nowhere"], "holds no study", 1),
        (["study", "report", "nowhere"], "holds no study", 1),
        (["study", "add", "none.yaml", "--seeds", "1"], "no study at", 1),
        (["study", "rnu"], "No such command", 2),
        (["study", "run", "none.yaml", "--engine", "rya"], "ray", 2),
    ],
)
def test_wrong_calls(arguments, expected, code, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert expected in fails(capsys, *arguments, code=code)


def test_wrong_options_on_a_right_file(file, capsys):
    assert "belongs to --engine ray" in fails(capsys, "study", "run", file, "--address", "a:1")
    assert "FACTOR=LEVEL" in fails(capsys, "study", "add", file, "--level", "stl", code=2)
    assert "nothing to add: give --seeds N or --level FACTOR=LEVEL" in fails(
        capsys, "study", "add", file
    )
    assert "cpus" in fails(capsys, "study", "run", file, "--cpus", 0)
    assert file.read_text() == STUDY


@pytest.mark.usefixtures("no_page")
def test_resources_that_are_typed_are_those_on_record(file, tmp_path, capsys):
    file.write_text(STUDY.replace("seeds: 2", "seeds: 1"))
    status, _, err = run(capsys, "study", "run", file, "--cpus", 1)
    assert status == 0, err
    assert json.loads((tmp_path / "mine" / "manifest.json").read_text())["threads"] == 1
    plan = json.loads((tmp_path / "mine" / "study.json").read_text())["plan"]
    assert plan["resources"]["cpus"] == 1


@pytest.mark.usefixtures("no_page")
def test_compare_does_not_mix_cells_of_two_data_sets(tmp_path, capsys, monkeypatch):
    """As it was met: the file is written anew between two commands."""
    monkeypatch.chdir(tmp_path)
    rows = np.random.default_rng(0).normal(size=(200, 3))
    np.save("tr.npy", rows)
    np.save("te.npy", rows[:30] + 1)
    same = ["--test-data", "te.npy", "--likelihood", "normal", "--latent", 2, "--hidden", 8,
            "--epochs", 1, "--seeds", 1, "--method", "iwae", "--particles", 5]  # fmt: skip
    command = ["compare", "--data", "tr.npy", *same, "--out", "CT", "--objective", "elbo"]
    assert run(capsys, *command)[0] == 0
    np.save("tr.npy", rows[:60])
    line = fails(capsys, *command, "--objective", "iwae:5")
    assert "CT holds 1 of 2 cells that were trained on other data than tr.npy and te.npy" in line
    assert "(elbo seed 0): give another --out FOLDER, or bring the data back as they were." in line
    assert [path.name for path in (tmp_path / "CT" / "cells").iterdir()] == ["elbo-seed0"]
