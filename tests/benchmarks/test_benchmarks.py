"""Each benchmark runs and prints the JSON it promises. Its times are never looked at."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def run_quickly(name, out, settings=("--device", "cpu", "--threads", "1")):
    command = [sys.executable, BENCHMARKS / name, "--quick", *settings, "--out", out]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert json.loads(out.read_text()) == result
    assert result["machine"]["device"] == "cpu"
    assert {"cpu", "threads", "python", "torch", "pyro"} <= result["machine"].keys()
    return result


@pytest.fixture(scope="module")
def steps(tmp_path_factory):
    return run_quickly("step.py", tmp_path_factory.mktemp("step") / "step.json")["results"]


def test_step_times_every_variant(steps):
    one, many = steps
    assert (one["batch_size"], one["num_particles"]) == (128, 1)
    assert (many["batch_size"], many["num_particles"]) == (100, 50)
    names = {"pyro-example", "pyro-tuned", "ours-svi", "ours-torch"}
    names |= {"plain-torch", "plain-torch-fused"}
    assert set(one["variants"]) == names
    assert set(many["variants"]) == names | {"pyro-renyi"}
    for row in [*one["variants"].values(), *many["variants"].values()]:
        assert row["microseconds_per_step"]["median"] > 0
        assert set(row["speedup_over"]) == {"pyro-example", "pyro-tuned"}


def test_step_times_the_same_computation(steps):
    one, many = steps
    losses = {row["first_loss_nats_per_datum"] for row in one["variants"].values()}
    assert max(losses) - min(losses) < 0.01
    importance_weighted = ("pyro-renyi", "ours-svi", "ours-torch", "plain-torch")
    losses = {many["variants"][name]["first_loss_nats_per_datum"] for name in importance_weighted}
    assert max(losses) - min(losses) < 0.01


def test_evidence_times_ours_and_pythae(tmp_path):
    result = run_quickly("evidence.py", tmp_path / "evidence.json")
    estimators = result["comparison"]["estimators"]
    assert estimators["ours"]["milliseconds_per_datum"]["median"] > 0
    assert result["memory"][0]["extra_peak_megabytes"] < 1024
    if importlib.util.find_spec("pythae") is not None:
        peer = estimators["pythae-default"]
        assert {"median", "low", "high"} == peer["ours_is_faster_by"].keys()
        assert peer["difference_over_joint_error"] is not None


def test_scheduling_counts_every_cell(tmp_path):
    out = tmp_path / "scheduling.json"
    rows = run_quickly("scheduling.py", out, settings=("--kinds", "study"))["results"]
    assert [(row["engine"], row["kind"]) for row in rows] == [("in-process", "study")] * 2
    assert [row["cells"] for row in rows] == [10, 20]
    for row in rows:
        assert row["milliseconds_per_cell"] > 0
        assert row["megabytes_added_at_most"] >= 0
