"""The benchmark of the report prints what it promises. Its times are never looked at."""

import json
from pathlib import Path

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "report.py"


def test_report_says_what_a_page_takes(tmp_path, interpreter):
    out = tmp_path / "report.json"
    done = interpreter.script(BENCHMARK, "--cells", 25, "--out", out)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert json.loads(out.read_text()) == found
    (row,) = found["results"]
    assert (row["cells"], row["arms"]) == (25, 5)
    assert row["seconds"]["all"] > 0
    assert row["page_megabytes"] < 5
