"""evaluate --method and diagnose, as typed."""

import json
import re
import shutil
from pathlib import Path

import pytest

from ppl_vae.cli import main
from ppl_vae.evidence import METHODS
from ppl_vae.refinement import Refinement
from ppl_vae.store import read_sealed, write_sealed

from .command import SMALL, fails, replaced, run

OPTIONS = {
    "iwae": ["--particles", "50", "--refine", "2"],
    "auto": ["--target", "0.2"],
    "psis": ["--particles", "100"],
    "defensive": ["--particles", "50"],
    "jackknife": ["--particles", "32"],
    "sumo": ["--replicates", "5"],
    "adaptive": ["--target", "0.5"],
    "ais": ["--temperatures", "5", "--chains", "4", "--leapfrog-steps", "2"],
    "smc": ["--temperatures", "5", "--chains", "16", "--leapfrog-steps", "2"],
    "ti": ["--temperatures", "4", "--chains", "2", "--leapfrog-steps", "1"],
    "bdmc": ["--temperatures", "9", "--chains", "4", "--leapfrog-steps", "1", "--simulated", "2"],
    "quadrature": [],
    "laplace": ["--particles", "50", "--refine", "laplace"],
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluate") / "run"
    main(["fit", "--out", str(folder), *SMALL])
    return folder


@pytest.fixture(scope="module")
def deeper(tmp_path_factory):
    """A run whose latents are too many for quadrature."""
    folder = tmp_path_factory.mktemp("certificate") / "run"
    main(["fit", "--out", str(folder), *replaced(SMALL, "--latent", "4")])
    return folder


class TestCertificate:
    """The same settings on simulated data, from both sides, beside an automatic estimate."""

    def test_it_is_printed_and_kept(self, deeper, capsys):
        arguments = ["evaluate", deeper, "--limit", "5", "--target", "0.2"]
        status, out, err = run(capsys, *arguments)
        assert status == 0, err
        # No more simulated data than real ones: it costs no more than the estimate.
        assert "5 simulated data; automatic to 0.2 nats" in out
        assert re.search(r"^  gap +-?\d\.\d{3}  \+- \d\.\d{3}$", out, re.MULTILINE)
        assert re.search(r"simulated data are .* than the real ones", out)
        (path,) = (deeper / "evaluations").glob("*-certificate-5.json")
        before = path.stat().st_mtime_ns
        found = json.loads(run(capsys, *arguments, "--json")[1])["certificate"]
        assert path.stat().st_mtime_ns == before
        assert found["num_data"] == 5
        assert found["lower"]["log_prob"] <= found["upper"]["log_prob"] + 0.5
        assert found["likeness"]["easier"] in (True, False)
        path.write_text(path.read_text().replace('"gap"', '"gab"'))
        assert "delete it to make it anew" in fails(capsys, *arguments, "--certificate", 5)
        path.unlink()

    def test_as_many_as_are_asked_for_or_none(self, deeper, capsys):
        arguments = ["evaluate", deeper, "--limit", "5", "--target", "0.2", "--json"]
        found = json.loads(run(capsys, *arguments, "--certificate", 3)[1])
        assert found["certificate"]["num_data"] == 3
        found = json.loads(run(capsys, *arguments, "--certificate", 0)[1])
        assert found["certificate"] is None

    def test_of_another_method_it_is_refused(self, deeper, capsys):
        arguments = ["evaluate", deeper, "--limit", 5, "--method", "iwae", "--certificate", 5]
        assert "method auto alone has one" in fails(capsys, *arguments, code=2)

    def test_a_folder_that_is_not_there_has_no_list(self, tmp_path, capsys):
        text = fails(capsys, "evaluate", tmp_path / "nowhere", "--list")
        assert "nowhere is no folder" in text

    def test_exact_numbers_and_other_methods_have_none(self, trained, deeper, capsys):
        for folder, more in ((trained, []), (deeper, ["--particles", 100])):
            found = json.loads(run(capsys, "evaluate", folder, "--limit", 5, *more, "--json")[1])
            assert found["certificate"] is None


def test_what_broke_off_is_said(trained, tmp_path, capsys):
    folder = shutil.copytree(trained, tmp_path / "run")
    record = read_sealed(folder / "run.json", "")
    write_sealed(folder / "run.json", {**record, "state": "running"})
    arguments = "--limit", 3, "--method", "iwae", "--particles", 20
    assert "is not done: all that is said of it" in run(capsys, "evaluate", folder, *arguments)[2]
    assert "is not done" not in run(capsys, "evaluate", trained, *arguments)[2]


# Of discrete latents alone.
@pytest.mark.usefixtures("short_pilot")
@pytest.mark.parametrize("method", [*sorted(set(METHODS) - {"enumeration"}), "laplace"])
def test_every_method(method, trained, capsys):
    name = "iwae" if method == "laplace" else method
    arguments = ["evaluate", trained, "--method", name, "--limit", "3", *OPTIONS[method]]
    status, out, err = run(capsys, *arguments)
    assert status == 0, err
    assert "log p(x) = -" in out
    assert "bits per dimension, of 64" in out
    assert not list(trained.glob("unfinished-*"))
    # The second time it is read back.
    kept = trained / "evaluations"
    there = {path: path.stat().st_mtime_ns for path in kept.glob("*.nc")}
    status, out, _ = run(capsys, *arguments, "--json")
    found = json.loads(out)
    assert Path(found["file"]) in there
    assert found["log_prob"] < 0
    assert found["bits_per_dimension"] > 0
    assert found["identity"]["source"] == {"dataset": "digits", "split": "test", "limit": 3}
    assert there == {
        path: path.stat().st_mtime_ns for path in (trained / "evaluations").glob("*.nc")
    }


@pytest.fixture
def fresh(trained, tmp_path):
    """The trained run in a folder of its own, without evaluations."""
    left_out = shutil.ignore_patterns("evaluations")
    return shutil.copytree(trained, tmp_path / "run", ignore=left_out)


def test_no_evaluation_takes_the_place_of_another_and_all_are_listed(fresh, capsys):
    folder = fresh
    assert "holds no evaluations" in run(capsys, "evaluate", folder, "--list")[1]
    means = []
    for arguments in (
        ["--particles", 20],
        ["--particles", 1, "--limit", 5],
        ["--particles", 20, "--split", "valid"],
    ):
        status, out, err = run(capsys, "evaluate", folder, *arguments, "--json")
        assert status == 0, err
        means.append(json.loads(out)["log_prob"])
    listed = json.loads(run(capsys, "evaluate", folder, "--list", "--json")[1])["evaluations"]
    assert sorted(each["log_prob"] for each in listed) == sorted(means)
    text = run(capsys, "evaluate", folder, "--list")[1]
    for words in (
        "ImportanceSampling(num_particles=20)",
        "digits, test, limit 5",
        "digits, valid",
        "log p(x)",
    ):
        assert words in text
    assert all(f"{mean:.3f}" in text for mean in means)


@pytest.mark.parametrize("name", ["config.json", "data.safetensors", "checkpoint.safetensors"])
def test_a_folder_where_a_file_is_expected_is_named(fresh, capsys, name):
    (fresh / name).unlink()
    (fresh / name).mkdir()
    for command in ("evaluate", "diagnose"):
        line = fails(capsys, command, fresh)
        assert f"{fresh / name} is a folder, a file is expected" in line
    assert fails(capsys, "fit", "--out", fresh, *SMALL).count(name) == 1


def test_a_folder_in_the_place_of_data_or_results_is_named(fresh, capsys, tmp_path):
    few = ["evaluate", fresh, "--particles", 2, "--limit", 2]
    path = Path(json.loads(run(capsys, *few, "--json")[1])["file"])
    path.unlink()
    path.mkdir()
    assert f"{path} is a folder, a file is expected" in fails(capsys, *few)
    (tmp_path / "x.csv").mkdir()
    line = fails(capsys, *few, "--data", tmp_path / "x.csv")
    assert "x.csv is a folder, a file is expected" in line
    line = fails(capsys, "fit", "--data", tmp_path / "x.csv", "--out", tmp_path / "new")
    assert "x.csv is a folder, a file is expected" in line
    (fresh / "history.csv").unlink()
    (fresh / "history.csv").mkdir()
    line = fails(capsys, "fit", "--out", fresh, *SMALL)
    assert line.count("history.csv") == 1
    assert "Is a directory" in line


@pytest.mark.usefixtures("short_pilot")
def test_a_sandwich_is_drawn(trained, capsys):
    arguments = ["--limit", "3", *OPTIONS["bdmc"]]
    status, out, _ = run(capsys, "evaluate", trained, "--method", "bdmc", *arguments)
    assert status == 0
    assert "gap" in out
    pictures = trained / "evaluations"
    (first,) = pictures.glob("*-sandwich.png")
    content = first.read_bytes()
    assert content.startswith(b"\x89PNG")
    # Another one has a picture of its own, named as its file is.
    arguments = ["--limit", "4", *OPTIONS["bdmc"]]
    assert run(capsys, "evaluate", trained, "--method", "bdmc", *arguments)[0] == 0
    assert first.read_bytes() == content
    named = {path.name.removesuffix("-sandwich.png") for path in pictures.glob("*-sandwich.png")}
    assert len(named) == 2
    assert named <= {path.stem for path in pictures.glob("*.nc")}
    # Its settings are those of the annealing that it judged.
    lines = run(capsys, "evaluate", trained, "--list")[1].splitlines()
    of_both = [line for line in lines if line.startswith("BidirectionalMonteCarlo(Annealed")]
    assert len(of_both) == 2
    assert all(re.search(r"num_temperatures=\d+, .*\), gap=[\d.e+-]+\) ", each) for each in of_both)


@pytest.mark.usefixtures("short_pilot")
def test_diagnose(trained, capsys, monkeypatch):
    monkeypatch.setattr("ppl_vae.runs._diagnose._REFINEMENT", Refinement(3))
    options = ["--limit", "30", "--particles", "20"]
    options += ["--rate-data", "2", "--temperatures", "10", "--chains", "4"]
    arguments = ["diagnose", trained, *options]
    status, out, err = run(capsys, *arguments)
    assert status == 0, err
    assert "done" in err
    # Figures are there, and take as long as all else.
    monkeypatch.setattr("ppl_vae.report._folders.png_of", lambda *_: b"drawn again")
    # The second time nothing is computed again.
    status, again, err = run(capsys, *arguments)
    assert (status, again) == (0, out)
    assert "read back" in err
    assert "done" not in err
    for part in (
        "Inference gap",
        "amortisation",
        "information",
        "L_10",
        "ranks of z*",
        "squared residual",
    ):
        assert part in out
    there = {path for path in (trained / "evaluations").iterdir() if "diagnosis-" in path.name}
    # A key of what was asked, and one of what the programs give.
    assert {re.sub("^diagnosis-[0-9a-f]{12}-[0-9a-f]+", "", path.name) for path in there} >= {
        ".json", ".nc", "-rate_distortion.png", "-calibration.png", "-bound_curve.png"
    }  # fmt: skip
    (kept,) = (path for path in there if path.suffix == ".json")
    assert set(json.loads(kept.read_text())) == {
        "decomposition", "surgery", "evidence", "inference_gap", "generalization_gap",
        "bound_curve", "calibration", "predictive_check", "rate_distortion", "left_out", "identity",
    }  # fmt: skip
    # Another one takes no place of it, and both are listed beside the evaluations.
    status, _, err = run(capsys, "diagnose", trained, *replaced(options, "--chains", "5"))
    assert status == 0, err
    assert there < set((trained / "evaluations").iterdir())
    listed = run(capsys, "evaluate", trained, "--list")[1].splitlines()
    assert (
        sum(line.startswith("diagnosis") and "digits, test, limit 30" in line for line in listed)
        == 2
    )


def test_bootstrap_errors(trained, capsys):
    """Another error of the same estimate."""
    both = []
    for more in ([], ["--bootstrap", 200]):
        arguments = ["--limit", 3, "--particles", 60, "--json", *more]
        status, out, err = run(capsys, "evaluate", trained, *arguments)
        assert status == 0, err
        both.append(json.loads(out))
    assert both[0]["log_prob"] == both[1]["log_prob"]
    assert both[0]["monte_carlo_error"] != both[1]["monte_carlo_error"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "iwae", "--bootstrap", "1"], "bootstrap >= 2 samples"),
        (["--method", "psis", "--bootstrap", "9"], "bootstrap is an option of method"),
        (["--method", "asi"], "did you mean 'ais'"),
        (["--method", "ais", "--particles", "3"], "particles is an option of method"),
        (["--particles", "0"], "num_particles >= 1"),
    ],
)
def test_wrong_input_is_one_line(trained, capsys, arguments, message):
    status, out, err = run(capsys, "evaluate", trained, *arguments)
    assert (status, out) == (1, "")
    assert err.count("\n") == 1
    assert message in err


def test_parts_of_the_data_on_an_engine(fresh, capsys):
    folder = fresh
    options = ["--particles", 10, "--limit", 40, "--json"]
    status, out, err = run(capsys, "evaluate", folder, *options, "--shards", 3)
    assert status == 0, err
    parts = json.loads(out)
    whole = json.loads(run(capsys, "evaluate", folder, *options)[1])
    assert parts["num_data"] == whole["num_data"] == 40
    assert parts["log_prob"] != whole["log_prob"]
    assert abs(parts["log_prob"] - whole["log_prob"]) < 5 * (
        parts["monte_carlo_error"] + whole["monte_carlo_error"]
    )
    line = fails(capsys, "evaluate", folder, *options, "--shards", 41)
    assert "40" in line
    assert "belongs to --engine ray" in fails(
        capsys, "evaluate", folder, "--address", "a:1", "--shards", 2
    )
