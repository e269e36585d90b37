"""What the command line says of failures that it foresees, and of those that it does not."""

import click
import pytest
import torch

from ppl_vae import cli
from ppl_vae.cli._output import TRACEBACK, describe_error, in_options, say

from .command import fails


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


def test_a_cpu_out_of_memory_is_said_so():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert describe_error(caught.value).startswith("out of memory: ")


def test_what_files_hold_does_not_steer_the_terminal(capsys):
    say("cell \x1b]0;title\x07 failed")
    assert capsys.readouterr().out == "cell ]0;title failed\n"
