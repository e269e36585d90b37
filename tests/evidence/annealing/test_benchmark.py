"""The benchmark runs and prints the JSON it promises. Its times are never looked at."""

import json
from pathlib import Path

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "annealing.py"


def test_speeds_from_both_starts(tmp_path, interpreter):
    out = tmp_path / "annealing.json"
    done = interpreter.script(SCRIPT, "--quick", "--device", "cpu", "--threads", 1, "--out", out)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert json.loads(out.read_text()) == result
    assert [row["start"] for row in result["results"]] == ["prior", "guide"]
    for row in result["results"]:
        plain = row["variants"]["plain"]
        assert plain["chains_data_temperatures_per_second"]["median"] > 0
