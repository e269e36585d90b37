"""The coverage benchmark runs and prints the JSON it promises."""

import json
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "coverage.py"


def test_every_part_has_its_rows(tmp_path, interpreter):
    out = tmp_path / "coverage.json"
    done = interpreter.script(SCRIPT, "--quick", "--threads", 1, "--out", out)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert json.loads(out.read_text()) == result
    assert result["machine"]["device"] == "cpu"
    methods = {name for row in result["coverage"] for name in row["coverage"]}
    assert methods >= {"default", "satterthwaite", "percentile", "bootstrap-t"}
    assert all(0 <= row["any_together"] <= 1 for row in result["false_alarms"])
    said = [row["said_and_true"] for row in result["ranks"] if row["said_and_true"]]
    assert all(0 <= each["true"] <= 1 for rows in said for each in rows)
    assert {"training_runs", "planned_power"} < set(result)
