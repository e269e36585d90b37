"""What the command line says of failures that it foresees, and of those that it does not."""

import signal
import sys

import click
import pytest
import torch

from ppl_vae import cli
from ppl_vae.cli._output import TRACEBACK, describe_error, in_options, say

from .command import fails, replaced


def failing(monkeypatch, error):
    @click.command("fail")
    def command():
        raise error

    monkeypatch.setitem(cli.cli.commands, "fail", command)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("wrong\n  value"), "wrong value"),
        (KeyError("x"), "unexpected KeyError: 'x' (", ),
        (RuntimeError("boom"), "unexpected RuntimeError: boom ("),
        (RecursionError("maximum depth"), "nested too deeply"),
        (MemoryError(), "out of memory"),
        (torch.OutOfMemoryError("CUDA full.\n" + "frame\n" * 30), "out of memory: CUDA full."),
        (ValueError("a" * 10**6 + " use --rows."), "use --rows."),
        (ValueError("\x1b[2Jcleared\x07"), "error: [2Jcleared"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else value,
)  # fmt: skip
def test_every_failure_is_one_short_line(error, message, capsys, monkeypatch):
    failing(monkeypatch, error)
    line = fails(capsys, "fail")
    assert message in line
    assert len(line) < 1200
    assert "\x1b" not in line
    if "unexpected" in message:
        assert "test_failures.py, line" in line
        assert f"{TRACEBACK}=1" in line


@pytest.mark.parametrize(
    ("python", "typed"),
    [
        (
            "say so (decimal=\",\") or (separator=';').",
            "say so (--decimal ,) or (--separator ';').",
        ),
        ("out (drop=['a', 'b c']).", "out (--drop 'a,b c')."),
        ("kind (columns={'a': 'categorical'}).", "kind (--columns a=categorical)."),
        ("cells (allow_missing=True).", "cells (--allow-missing)."),
        ("such as latent=(50, 20).", "such as --latent 50,20."),
        ('belongs to engine="ray".', "belongs to --engine ray."),
        ("it (missing=['it's', \"]\"]).", "it (missing=['it's', \"]\"])."),
        (
            "(elbo seed 0): choose another folder, or bring the data back as they were.",
            "(elbo seed 0): give another --out FOLDER, or bring the data back as they were.",
        ),
        (
            "run the study into another folder, or delete",
            "run the study's file into another --out FOLDER, or delete",
        ),
    ],
)
def test_advice_is_typed_as_options(python, typed):
    assert in_options(python) == typed


def test_a_traceback_on_request(capsys, monkeypatch):
    failing(monkeypatch, KeyError("x"))
    monkeypatch.setenv(TRACEBACK, "1")
    with pytest.raises(SystemExit):
        cli.main(["fail"])
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_an_interruption_that_became_another_error_is_one(capsys, monkeypatch):
    """C code of torch turns the exception of an interruption into one of its own."""

    @click.command("swallow")
    def command():
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise TypeError("could not determine the shape") from None

    monkeypatch.setitem(cli.cli.commands, "swallow", command)
    # A suite that is started in the background ignores Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert "error: stopped; the same command goes on" in fails(capsys, "swallow", code=130)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_cpu_out_of_memory_is_said_so():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert describe_error(caught.value).startswith("out of memory: ")


def test_what_files_hold_does_not_steer_the_terminal(capsys):
    say("cell \x1b]0;title\x07 failed")
    assert capsys.readouterr().out == "cell ]0;title failed\n"


RUN = ["fit", "--hidden", "4", "--latent", "2", "--epochs", "1", "--device", "cpu", "--out", "run"]


@pytest.mark.parametrize("value", ["1", "[1]", "{a: 1}", "maybe", "yes"])
def test_a_truth_value_of_a_file_is_true_or_false(value, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text(f"allow_missing: {value}\n")
    line = fails(capsys, *RUN, "--config", "c.yaml", code=2)
    assert "allow_missing cannot be" in line
    assert "it is true or false." in line


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("def forward(self):\n        return 3", "must return a distribution of vectors, got int"),
        ("def forward(self):\n        return dist.Normal(0.0, 1.0)", "got events of shape ()"),
        ("def __init__(self):\n        raise KeyError('boo')", "cannot be built: KeyError: 'boo'"),
    ],
)
def test_a_wrong_prior_of_ones_own_is_named(body, reason, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    module = f"my_prior_{abs(hash(body))}"
    (tmp_path / f"{module}.py").write_text(
        "import torch\nfrom pyro import distributions as dist\n\n"
        f"class Mine(torch.nn.Module):\n    {body}\n"
    )
    line = fails(capsys, *RUN, "--prior", f"{module}:Mine")
    assert f"prior '{module}:Mine'" in line
    assert reason in line


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--upper-hidden", "4"], "--upper-hidden lies between layers of latents"),
        (["--latent", "[]"], "one layer of latents or more"),
    ],
)
def test_sizes_that_nothing_has_are_refused(options, reason, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = fails(capsys, *RUN[:1], *replaced(RUN[1:], *options))
    assert reason.removeprefix("--").replace("-", "_") in line.replace("-", "_")
