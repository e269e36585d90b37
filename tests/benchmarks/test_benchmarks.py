"""Each benchmark runs and prints the JSON it promises. Its times are never looked at."""

import importlib.util
import json
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def run_quickly(interpreter):
    def run(name, out, settings=("--device", "cpu", "--threads", "1")):
        done = interpreter.script(BENCHMARKS / name, "--quick", *settings, "--out", out)
        assert done.returncode == 0, done.stderr
        result = json.loads(done.stdout)
        assert json.loads(out.read_text()) == result
        assert result["machine"]["device"] == "cpu"
        assert {"cpu", "threads", "python", "torch", "pyro"} <= result["machine"].keys()
        return result

    return run


@pytest.fixture(scope="module")
def steps(tmp_path_factory, run_quickly):
    return run_quickly("step.py", tmp_path_factory.mktemp("step") / "step.json")["results"]


def test_step_times_every_variant(steps):
    one, many = steps
    assert (one["batch_size"], one["num_particles"]) == (128, 1)
    assert (many["batch_size"], many["num_particles"]) == (100, 5)
    names = {"pyro-example", "pyro-tuned", "ours-svi", "ours-torch"}
    names |= {"plain-torch", "plain-torch-fused", "floor"}
    assert set(one["variants"]) == names
    assert set(many["variants"]) == names | {"pyro-renyi"}
    for result in steps:
        assert result["failed"] == {}
        for row in result["variants"].values():
            assert row["microseconds_per_step"]["median"] > 0
            assert row["cpu_microseconds_per_step"]["median"] > 0
        others = result["variants"].keys() - {"pyro-example"}
        assert set(result["ratios"]) == {f"pyro-example/{name}" for name in others}
        for ratio in result["ratios"].values():
            assert 0 < ratio["cpu"]["low"] <= ratio["cpu"]["median"] <= ratio["cpu"]["high"]


def test_step_times_the_same_computation(steps):
    one, many = steps
    rows = [row for name, row in one["variants"].items() if name != "floor"]
    losses = {row["first_loss_nats_per_datum"] for row in rows}
    assert max(losses) - min(losses) < 0.01
    importance_weighted = ("pyro-renyi", "ours-svi", "ours-torch", "plain-torch")
    losses = {many["variants"][name]["first_loss_nats_per_datum"] for name in importance_weighted}
    assert max(losses) - min(losses) < 0.01


def test_step_goes_on_without_a_variant_that_does_not_run(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import step

    def fails():
        raise RuntimeError("no compiler\nfor many reasons")

    makers = {"bad": fails, "good": lambda: lambda x: x.sum(), "floor": lambda: lambda x: None}
    variants, first_loss, failed = step.started(makers, torch.ones(3))
    assert list(variants) == ["good", "floor"]
    assert first_loss == {"good": 3.0}
    assert failed == {"bad": "RuntimeError: no compiler"}


@pytest.mark.skipif(not importlib.util.find_spec("numpyro"), reason="needs numpyro")
def test_step_times_numpyro_on_the_same_weights(tmp_path, steps, run_quickly):
    """Its draws are its own, so that the first loss is another draw of the same bound."""
    settings = ("--device", "cpu", "--threads", "1", "--variants", "numpyro-jit", "numpyro-scan")
    results = run_quickly("step.py", tmp_path / "step.json", settings=settings)["results"]
    for result, ours in zip(results, steps, strict=True):
        expected = ours["variants"]["ours-torch"]["first_loss_nats_per_datum"]
        for row in result["variants"].values():
            assert row["first_loss_nats_per_datum"] == pytest.approx(expected, rel=5e-3)
            assert row["cpu_microseconds_per_step"]["median"] > 0


def test_evidence_times_ours_and_pythae(tmp_path, run_quickly):
    result = run_quickly("evidence.py", tmp_path / "evidence.json")
    estimators = result["comparison"]["estimators"]
    assert estimators["ours"]["milliseconds_per_datum"]["median"] > 0
    assert result["memory"][0]["extra_peak_megabytes"] < 1024
    if importlib.util.find_spec("pythae") is not None:
        peer = estimators["pythae-default"]
        assert {"median", "low", "high"} == peer["ours_is_faster_by"].keys()
        assert peer["difference_over_joint_error"] is not None


def test_revisions_time_the_same_estimates(tmp_path, run_quickly):
    """Of this revision against itself, whose estimates are the same."""
    settings = (str(BENCHMARKS.parent),)
    result = run_quickly("revisions.py", tmp_path / "revisions.json", settings=settings)
    assert [row["task"] for row in result["results"]] == ["evidence", "annealing-4"]
    for row in result["results"]:
        assert row["before"]["mean_log_prob"] == row["now"]["mean_log_prob"]
        assert row["before_over_now"]["cpu"]["median"] > 0


def test_trust_counts_coverage_and_cost(tmp_path, run_quickly):
    bimodal, separate, linear = run_quickly("trust.py", tmp_path / "trust.json")["models"]
    assert bimodal["stages"] == {"quadrature": 30}
    assert bimodal["coverage"] == 1.0
    assert {row["kind"] for row in separate["kinds"]} == {"both modes", "one mode seen"}
    assert sum(row["num_data"] for row in linear["kinds"]) == 30
    assert set(linear["fixed_particles"]) == {row["kind"] for row in linear["kinds"]}
    assert linear["coverage"] > 0.7
    assert 0 < linear["evaluations"] < 200_000


def test_scheduling_counts_every_cell(tmp_path, run_quickly):
    out = tmp_path / "scheduling.json"
    (row,) = run_quickly("scheduling.py", out, settings=("--kinds", "study"))["results"]
    assert (row["engine"], row["kind"], row["cells"]) == ("in-process", "study", 10)
    assert row["milliseconds_per_cell"] > 0
    assert row["megabytes_added_at_most"] >= 0


def test_scaling_times_steps_and_epochs(tmp_path, run_quickly):
    result = run_quickly("scaling.py", tmp_path / "scaling.json")
    (step,), (epoch,) = result["steps"], result["epochs"]
    assert (step["variant"], step["batch_size"], step["num_particles"]) == ("plain", 8, 1)
    assert (epoch["variant"], epoch["num_data"]) == ("plain", 200)
    for row in (step, epoch):
        assert row["milliseconds"]["median"] > 0
        assert row["peak_megabytes"] >= 0


def test_device_runs_each_part_within_its_limit(tmp_path, run_quickly):
    settings = ("--device", "cpu", "--only", "tests", "annealing")
    parts = run_quickly("device.py", tmp_path / "device.json", settings=settings)["parts"]
    assert list(parts) == ["tests", "annealing"]
    assert "skipped" in parts["tests"]["output"] or "passed" in parts["tests"]["output"]
    assert parts["annealing"]["result"]["benchmark"] == "annealing"
    assert [part["status"] for part in parts.values()] == [0, 0]


def test_device_stops_a_part_that_takes_too_long(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import device

    wait = subprocess.Popen.wait

    def wait_from_the_first_word_on(process, limit=None):
        # A busy machine may take longer than the limit to start a process.
        while limit is not None and not (tmp_path / "output.txt").read_text():
            time.sleep(0.05)
        return wait(process, limit)

    monkeypatch.setattr(subprocess.Popen, "wait", wait_from_the_first_word_on)
    code = "import time; print('began', flush=True); time.sleep(60); print('ended')"
    slow = device.Part([sys.executable, "-c", code], 1.0, result=False)
    ended = device.run(slow, dict(os.environ), tmp_path)
    assert ended["status"] == "stopped after 1 s"
    assert ended["output"] == "began\n"
    assert sum(part.limit for part in device.parts("cuda", quick=False).values()) < 480


def test_device_unpacks_the_packages_that_are_not_there(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import device

    for package in ("torch", "of_no_machine"):
        with zipfile.ZipFile(tmp_path / f"{package}-1-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"{package}/__init__.py", "")
            wheel.writestr(f"{package}-1.dist-info/METADATA", "")
    into = tmp_path / "packages"
    assert device.unpack(tmp_path, into) == ["of_no_machine-1-py3-none-any.whl"]
    assert {path.name for path in into.iterdir()} == {"of_no_machine", "of_no_machine-1.dist-info"}
