"""The benchmark of the report prints what it promises. Its times are never looked at."""

import json
import subprocess
import sys
from pathlib import Path

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "report.py"


def test_report_says_what_a_page_takes(tmp_path):
    command = [sys.executable, BENCHMARK, "--cells", "25", "--out", tmp_path / "report.json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert json.loads((tmp_path / "report.json").read_text()) == found
    (row,) = found["results"]
    assert (row["cells"], row["arms"]) == (25, 5)
    assert row["seconds"]["all"] > 0
    assert row["page_megabytes"] < 5
