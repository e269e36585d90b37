"""Help texts: every printed default and name is that of the object that the option sets."""

import inspect
import re
from pathlib import Path
from typing import get_args

import click
import pytest

import ppl_vae as pv
from ppl_vae.cli import cli

# What the options of each command set.
SETS = {
    "fit": [pv.runs.RunConfig, pv.runs.train_run],
    "compare": [pv.runs.RunConfig, pv.runs.train_run, pv.runs.evaluate_run],
    "evaluate": [pv.runs.evaluate_run, pv.runs.open_run],
    "diagnose": [pv.runs.diagnose_run, pv.runs.open_run],
    "impute": [pv.runs.impute_run, pv.runs.open_run],
    "sample": [pv.report.write_sample_figures, pv.runs.open_run],
    "gradients": [pv.diagnostics.gradient_statistics, pv.runs.open_run],
    "study init": [pv.runs.RunConfig],
    "study run": [pv.runs.open_run],
}
# What has another name in Python.
RENAMED = {("impute", "draws"): "num_draws", ("impute", "particles"): "num_particles"}
# Defaults of the command itself: what is printed is what is used.
OWN = {
    ("compare", "seeds"), ("evaluate", "shards"),
    ("gradients", "model"), ("gradients", "folder"), ("gradients", "names"),
}  # fmt: skip
ENGINE = {"engine"}
# Words for what None, or a rule, stands for.
WORDS = {
    "data_root": "$PPL_VAE_DATA, else the user's cache",
    "upper_hidden": "as --hidden",
    "clip_norm": "no clipping",
    "patience": "never; the best epoch is kept either way",
    "limit": "all",
    "epochs": str(pv.runs.EPOCHS),
    "thousands": "none",
    "missing": "?, NA, NaN, null and others that pandas knows",
    "test_data": "they are split off",
    "valid_fraction": str(pv.data.Splitting().valid_fraction),
    "test_fraction": str(pv.data.Splitting().test_fraction),
    "split_seed": str(pv.data.Splitting().seed),
    "refine": "not at all",
    "bootstrap": "the delta method",
}


def commands(command=cli, path=()):
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from commands(inner, (*path, name))
    else:
        yield " ".join(path), command


COMMANDS = dict(commands())


def printed_defaults(command):
    """Option to its printed default, as the page shows it."""
    ctx = click.Context(command, info_name="ppl-vae", terminal_width=10_000)
    for option in command.params:
        if not isinstance(option, click.Option):
            continue
        _, text = option.get_help_record(ctx)
        assert "{" not in text, text
        found = re.search(r"\[default: (.*?)(; x>=\d+|; \d+<=x<=\d+)?\]$", text)
        if found:
            yield option, found[1]


def as_typed(value):
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_printed_default_is_the_one_that_is_used(name):
    for option, printed in printed_defaults(COMMANDS[name]):
        where = name, option.name
        parameter = RENAMED.get(
            where, option.name.removesuffix("s") if option.multiple else option.name
        )
        owners = [
            owner
            for owner in SETS.get(name, [])
            if parameter in inspect.signature(owner).parameters
        ]
        if name in ("evaluate", "compare") and option.name in METHOD_OPTIONS:
            expected = WORDS.get(option.name) or pv.registry.method_default(option.name)
            assert printed == expected, where
        elif where in COMPUTED:
            assert printed, where
        elif where in OWN or option.name in ENGINE:
            assert option.default is not None
        elif owners and (value := default(owners[0], parameter)) is not None:
            assert printed == as_typed(value), where
        elif option.name in WORDS:
            assert printed == WORDS[option.name], where
            assert all(default(owner, parameter) is None for owner in owners), where
        else:
            pytest.fail(f"say in this test what {where} belongs to")


METHOD_OPTIONS = pv.registry.METHOD_OPTIONS
# Told by the command, from constants of its own or other settings.
COMPUTED = {
    ("compare", "objectives"), ("compare", "folder"), ("evaluate", "method"),
    ("compare", "method"), ("impute", "data"),
    ("impute", "out"), ("gradients", "particles"), ("gradients", "replicates"),
    ("gradients", "limit"), ("study run", "folder"), ("study run", "address"),
    ("study run", "cpus"), ("study run", "gpus"), ("evaluate", "address"), ("evaluate", "cpus"),
    ("evaluate", "gpus"),
}  # fmt: skip


def default(owner, parameter):
    return inspect.signature(owner).parameters[parameter].default


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("leapfrog_steps", pv.AnnealedImportanceSampling().leapfrog_steps),
        ("simulated", pv.BidirectionalMonteCarlo().num_simulated),
        ("target", pv.AdaptiveSampling().target),
        ("prior_share", pv.DefensiveSampling().prior_share),
    ],
)
def test_defaults_of_estimators_are_those_of_their_classes(option, expected):
    assert pv.registry.method_default(option) == str(expected)


def test_no_default_is_typed_into_a_help_text():
    """Numbers come from the objects; words may stand for what a rule decides."""
    typed = [path.name for path in pv_files() if re.search(r"\[default: [0-9]", path.read_text())]
    assert typed == []


def pv_files():
    return sorted((Path(pv.__file__).parent / "cli").glob("*.py"))


def help_of(command, name):
    ctx = click.Context(command, terminal_width=10_000)
    (option,) = [o for o in command.params if o.name == name]
    return option.get_help_record(ctx)[1]


@pytest.mark.parametrize("name", COMMANDS)
def test_names_with_an_argument_exist(name):
    """Such as iwae:K: an objective, a step or a part."""
    ctx = click.Context(COMMANDS[name], terminal_width=10_000)
    known = {"cuda", "ordinal"} | {name for kind in pv.registry.KINDS.values() for name in kind}
    found = re.findall(r"\b([a-z][a-z-]*):[A-Z\d]", COMMANDS[name].get_help(ctx))
    assert set(found) <= known | {"module"}


@pytest.mark.parametrize(
    ("command", "option", "known"),
    [
        ("fit", "objective", pv.registry.OBJECTIVES),
        ("fit", "prior", pv.registry.KINDS["prior"]),
        ("fit", "guide", pv.registry.KINDS["guide"]),
        ("fit", "network", pv.registry.KINDS["network"]),
        ("fit", "likelihood", {"auto", *pv.registry.KINDS["likelihood"]}),
        ("fit", "data", pv.data.DATASETS),
        ("fit", "step", pv.training.STEPS),
    ],
)
def test_listed_names_exist(command, option, known):
    """The names of a list, before what stands in parentheses."""
    text = re.sub(r"\([^)]*\)", "", help_of(COMMANDS[command], option)).partition(", ...")[0]
    listed = re.findall(r"(?:^|[:,]|\bor\b) *([a-z][a-z-]*)(?=:[A-Z]|,| *\(|$|\.| *,)", text)
    listed = [name for name in listed if name not in ("one", "or")]
    assert listed
    assert set(listed) <= set(known)


@pytest.mark.parametrize(
    ("command", "option", "expected"),
    [
        ("fit", "binarize", pv.runs.BINARIZATIONS),
        ("evaluate", "split", get_args(pv.runs.Split)),
        ("compare", "split", get_args(pv.runs.Split)),
    ],
)
def test_choices_are_those_of_the_object(command, option, expected):
    (found,) = [o for o in COMMANDS[command].params if o.name == option]
    assert set(found.type.choices) == set(expected)


def test_all_methods_activations_and_schedules_are_listed():
    for command, option, names in [
        ("evaluate", "method", pv.registry.METHODS),
        ("fit", "activation", pv.networks.ACTIVATIONS),
        ("fit", "schedule", pv.registry.SCHEDULES),
    ]:
        assert ", ".join(names) in help_of(COMMANDS[command], option)
