"""Tables read as typed: what is said of it, and what is kept."""

import json

import numpy as np
import pandas as pd

from .command import fails, run

X = np.random.default_rng(0).normal(size=(300, 4))
SMALL = ["--latent", 1, "--hidden", 4, "--validation-particles", 2, "--updates", 2]


def test_the_command_says_what_it_read_and_keeps_the_settings(tmp_path, capsys):
    pd.DataFrame(X).to_csv(tmp_path / "default.csv")
    arguments = ["fit", "--data", tmp_path / "default.csv", *SMALL, "--out", tmp_path / "run"]
    arguments += ["--valid-fraction", 0.2, "--drop", "1,2"]
    status, out, err = run(capsys, *arguments, "--json")
    assert status == 0, err
    lines = [line for line in err.splitlines() if line.startswith("data: ")]
    assert len(lines) == 1
    assert lines[0].startswith("data: default.csv: 300 rows, 2 real columns; first row taken")
    json.loads(out)
    config = json.loads((tmp_path / "run" / "config.json").read_text())["config"]
    assert (config["valid_fraction"], config["drop"]) == (0.2, ["1", "2"])
    again = ["fit", "--config", tmp_path / "run" / "config.json", "--out", tmp_path / "run"]
    assert run(capsys, *again)[0] == 0
    pd.DataFrame(X).assign(visit=pd.date_range("2020-01-01", periods=300)).to_csv(
        tmp_path / "v.csv", index=False
    )
    line = fails(capsys, "fit", "--data", tmp_path / "v.csv", *SMALL, "--out", tmp_path / "other")
    assert "--drop visit" in line
    assert not (tmp_path / "other").exists()
