"""An option that takes one value is given one: of two, none is taken without a word."""

import click
import pytest

import ppl_vae as pv
from ppl_vae.cli import cli
from ppl_vae.cli._options import Command

from .command import SMALL, fails, run


def commands(group=cli, path=()):
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


VALUED = [
    pytest.param(path, option, id=f"{' '.join(path)} {option.opts[0]}")
    for path, command in commands()
    for option in command.params
    if isinstance(option, click.Option) and not (option.is_flag or option.multiple)
]


@pytest.mark.parametrize(("path", "option"), VALUED)
def test_every_option_of_every_command_is_taken_once(path, option):
    """By the class that all commands with such options have."""
    command = dict(commands())[path]
    assert isinstance(command, Command)
    context = click.Context(command, info_name=path[-1])
    typed = [option.opts[0], "1", option.opts[0], "2"]
    parse = command.make_parser(context).parse_args
    assert parse(args=list(typed))[2].count(option) == 2
    with pytest.raises(click.UsageError, match=f"^{option.opts[0]} takes one value, .* 1 and 2"):
        pv.cli._options._require_once(context, parse, typed)


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (["--likelihood", "normal", "--likelihood=beta"], "--likelihood takes one value, and is "
         "given normal and beta: give one."),
        (["--latent=2", "--epochs", 3, "--latent=3", "--latent", 2], "given 2 and 3 and 2: give"),
        (["--out", "other"], "--out takes one value, and is given run and other: give one."),
        (["--drop", "id", "--drop", "b"], "id and b: give one, with commas between its entries."),
    ],
)  # fmt: skip
def test_fit_takes_no_value_twice(typed, expected, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert expected in fails(capsys, "fit", "--out", "run", *typed, code=2)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (["--likelihood", "bernoulli", "--likelihood", "normal"], "bernoulli and normal: give one, "
         "or list both under factors, likelihood, in a study's file (ppl-vae study init"),
        (["--seed", 1, "--seed", 2], "1 and 2: give one, or give the number of training runs as "
         "--seeds."),
        (["--data", "digits", "--data", "mnist"], "or compare on each data set by itself."),
        (["--limit", 5, "--limit", 6], "5 and 6: give one."),
        (["--seeds", 2, "--seeds", 3], "--seeds takes one value, and is given 2 and 3: give one."),
    ],
)  # fmt: skip
def test_compare_says_how_several_values_are_compared(
    typed, expected, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert expected in fails(capsys, "compare", *typed, code=2)
    assert not list(tmp_path.iterdir())


def test_a_study_of_both_values_is_what_is_advised(tmp_path):
    """The advice as it stands in the message, carried out."""
    path = tmp_path / "study.yaml"
    path.write_text("factors: {likelihood: [bernoulli, normal]}\nconfig: {binarize: static}\n")
    assert list(pv.studies.read_study(path).arms) == ["bernoulli", "normal"]


def test_what_may_be_repeated_and_flags_are_taken(tmp_path, capsys):
    typed = ["--out", tmp_path / "run", *SMALL, "--json", "--json", "--epochs", 1]
    # SMALL gives the epochs already.
    assert "--epochs takes one value" in fails(capsys, "fit", *typed, code=2)
    status, out, err = run(capsys, "fit", *typed[:-2])
    assert status == 0, err
    assert out.startswith("{")
    status, out, _ = run(capsys, "fit", "--latent", 1, "--latent", 2, "--help")
    assert status == 0
    assert "--latent" in out
