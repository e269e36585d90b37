"""evaluate --decoder, as typed."""

import json
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import ppl_vae as pv

from .command import fails, run

MODULE = """
from torch import nn

class G(nn.Module):
    def __init__(self, latent: int = 1, features: int = 4):
        super().__init__()
        self.layer = nn.Linear(latent, features)

    def forward(self, z):
        return self.layer(z)

made = G(2)
not_one = print
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with a module of the user's, data and weights."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "own_decoder.py").write_text(MODULE)
    (tmp_path / "own_script.py").write_text("raise SystemExit(3)")
    torch.manual_seed(0)
    np.save("rows.npy", torch.randn(40, 4).numpy())
    state = nn.Linear(1, 4).state_dict()
    state = {f"layer.{name}": value for name, value in state.items()}
    torch.save(state, "g.pt")
    save_file(state, "g.safetensors")
    yield state
    sys.modules.pop("own_decoder", None)


@pytest.mark.parametrize("file", ["g.pt", "g.safetensors"])
def test_the_number_is_that_of_python(file, here, capsys):
    command = ["evaluate", "--decoder", "own_decoder:G", "--weights", file, "--data", "rows.npy"]
    status, out, err = run(capsys, *command, "--noise", "0.8", "--json")
    assert status == 0, err
    found = json.loads(out)
    layer = nn.Linear(1, 4)
    layer.load_state_dict({n.removeprefix("layer."): value for n, value in here.items()})
    x = torch.from_numpy(np.load("rows.npy"))
    assert found["num_data"] == 40
    assert found["log_prob"] == pytest.approx(pv.log_prob_of(layer, x, noise=0.8).mean, abs=1e-4)


def test_noise_is_chosen_on_rows_that_are_not_evaluated(here, capsys):
    command = ["evaluate", "--decoder", "own_decoder:made", "--data", "rows.npy"]
    status, out, err = run(capsys, *command)
    assert status == 0, err
    assert "(chosen on 4 validation data)" in out
    assert "N = 36" in out
    np.save("valid.npy", np.load("rows.npy")[:10])
    status, out, err = run(capsys, *command, "--valid", "valid.npy", "--limit", "5")
    assert status == 0, err
    assert "(chosen on 10 validation data)" in out
    assert "N = 5" in out


@pytest.mark.parametrize(("rows", "line"), [
    (9, "too few rows: got 9 in few (9, 4), expected at least 10: give more data"),
    (14, "noise auto is chosen on 2 validation rows or more, got 1, as a tenth of a file's rows "
         "may be: give rows as --valid, or --noise a number"),
])  # fmt: skip
def test_rows_that_are_too_few_to_choose_the_noise_by(rows, line, here, capsys):
    np.save("few.npy", np.load("rows.npy")[:rows])
    command = ["evaluate", "--decoder", "own_decoder:made", "--data", "few.npy"]
    assert line in fails(capsys, *command)
    if rows > 10:
        for option in (["--noise", "0.8"], ["--valid", "rows.npy"]):
            status, out, err = run(capsys, *command, *option)
            assert status == 0, err
            assert f"N = {rows}" in out


def test_a_named_set_is_binarised_for_probabilities(here, capsys):
    arguments = ["--latent", "1", "--noise", "bernoulli", "--data", "digits", "--limit", "3"]
    (line,) = [fails(capsys, "evaluate", "--decoder", "own_decoder:G:features=64", *arguments)]
    assert "takes a decoder of probabilities" in line


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        (["--decoder", "own_decoder:G"], "give the data set or file", 2),
        (["run", "--decoder", "own_decoder:G"], "it stands in place of run", 2),
        (["--decoder", "own_decoder:G", "--list"], "--list: needs a run", 2),
        (["--decoder", "own_decoder:G", "--plan"], "--plan: needs a run", 2),
        (["--decoder", "own_decoder:G", "--certificate", "3"], "--certificate: needs a run", 2),
        (["--decoder", "own_decoder:G", "--shards", "2"], "--shards: needs a run", 2),
        (["--decoder", "own_decoder:not_one", "--data", "rows.npy"], "expected a subclass of", 1),
        (["--decoder", "own_decoder:H", "--data", "rows.npy"], "has no attribute 'H'", 1),
        (["--decoder", "no_such:G", "--data", "rows.npy"], "No module named 'no_such'", 1),
        (["--decoder", "own_script:G", "--data", "rows.npy"],
         "importing own_script failed: SystemExit: 3", 1),
        (["--decoder", "own_decoder:G", "--data", "rows.npy", "--noise", "some"],
         "auto, bernoulli or a standard deviation, got 'some'", 1),
        (["--decoder", "own_decoder:made", "--data", "rows.npy", "--weights", "g.pt"],
         "weights of another module", 1),
        (["--decoder", "own_decoder:G", "--data", "rows.npy", "--weights", "rows.npy"],
         "no file of weights", 1),
        (["--decoder", "own_decoder:G", "--data", "rows.npy", "--weights", "none.pt"],
         "no such file of weights", 1),
        (["run", "--noise", "1"], "belongs to --decoder", 2),
        ([], "or give --decoder", 2),
    ],
)  # fmt: skip
def test_wrong_use_is_one_line(arguments, message, code, here, capsys):
    assert message in fails(capsys, "evaluate", *arguments, code=code)
