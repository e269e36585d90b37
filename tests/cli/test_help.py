"""Help texts: every option is a setting, its text and default those of the object that it sets."""

import re
from typing import get_args

import click
import pytest

import ppl_vae as pv
from ppl_vae.cli import cli
from ppl_vae.cli._options import SettingOption, SettingOptions
from ppl_vae.settings import REQUIRED as REQUIRED_SETTING
from ppl_vae.settings import flat, settings_of


def commands(command=cli, path=()):
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from commands(inner, (*path, name))
    else:
        yield " ".join(path), command


COMMANDS = dict(commands())
# Arguments that must be given.
REQUIRED = {"fit": ["--out", "x"]}


def help_of(command, name):
    ctx = click.Context(COMMANDS[command], terminal_width=10_000)
    (option,) = [o for o in COMMANDS[command].params if o.name == name]
    return option.get_help_record(ctx)[1]


def parsed(command, *arguments):
    """Values of the options, as the command gets them."""
    return COMMANDS[command].make_context(command, [*REQUIRED.get(command, []), *arguments]).params


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_of_a_setting_has_its_text_and_default(name):
    ctx = click.Context(COMMANDS[name], info_name="ppl-vae", terminal_width=10_000)
    for option in COMMANDS[name].params:
        if not isinstance(option, click.Option):
            continue
        _, text = option.get_help_record(ctx)
        assert len(text) > 10, option
        assert "None" not in text, text
        if isinstance(option, SettingOption):
            value = option.setting.default
            printed = re.search(r"\[default: (.*?)\]$", text)
            if value not in (REQUIRED_SETTING, None, (), {}, False):
                shown = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
                assert printed[1] == shown


def test_what_is_not_typed_is_the_default_of_the_settings():
    usual = pv.runs.RunConfig()
    values = parsed("fit")
    assert {name: values[name] for name in usual.given()} == usual.given()
    place = pv.studies.Place()
    assert {name: values[name] for name in flat(place)} == flat(place)


@pytest.mark.parametrize("name", ["evaluate", "diagnose", "impute", "sample", "gradients"])
def test_a_run_is_opened_as_in_python(name):
    values = parsed(name, *([] if name == "gradients" else ["run"]))
    for setting in settings_of(pv.runs.open_run).values():
        if setting.name != "folder":
            assert values[setting.name] == setting.default


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("leapfrog_steps", f"{pv.AnnealedImportanceSampling().leapfrog_steps}; auto 2"),
        ("simulated", pv.BidirectionalMonteCarlo().num_simulated),
        ("target", pv.AdaptiveSampling().target),
        ("prior_share", pv.DefensiveSampling().prior_share),
        ("refine", "not at all"),
        ("bootstrap", "the delta method"),
    ],
)
def test_defaults_of_estimators_are_those_of_their_classes(option, expected):
    assert help_of("evaluate", option).endswith(f"[default: {expected}]")


def test_every_argument_of_an_estimator_is_an_option_that_is_not_given():
    values = parsed("evaluate", "run")
    for build in pv.registry.METHODS.values():
        for parameter in pv.registry.METHODS.parameters(build):
            assert values[parameter.removeprefix("num_")] is None


@pytest.mark.parametrize("kind", ["objective", "prior", "likelihood", "guide", "network", "step"])
def test_names_are_listed_or_where_they_are_is_said(kind):
    text = help_of("fit", kind)
    names = list(pv.registry.KINDS[kind])
    listed = re.search(r"Known: ([^.;]*)", text)[1].strip(" ,").split(", ")
    assert listed == names[: len(listed)]
    assert len(listed) == len(names) or "lists them)" in text


@pytest.mark.parametrize(
    ("command", "option", "expected"),
    [
        ("fit", "binarize", ("auto", "none", "static", "dynamic")),
        ("evaluate", "split", get_args(pv.runs.Split)),
        ("compare", "split", get_args(pv.runs.Split)),
    ],
)
def test_choices_are_those_of_the_object(command, option, expected):
    (found,) = [o for o in COMMANDS[command].params if o.name == option]
    assert found.metavar == f"[{'|'.join(expected)}]"
    line = "is not " + f"{', '.join(expected[:-1])} or {expected[-1]}"
    with pytest.raises(click.BadParameter, match=line):
        parsed(command, *(["run"] if command == "evaluate" else []), f"--{option}", "other")


def test_all_methods_activations_and_schedules_are_listed():
    for command, option, names in [
        ("evaluate", "method", pv.registry.METHODS),
        ("fit", "activation", pv.networks.ACTIVATIONS),
        ("fit", "schedule", pv.registry.SCHEDULES),
        ("fit", "optimizer", pv.registry.OPTIMIZERS),
    ]:
        assert ", ".join(names) in help_of(command, option)


def test_groups_of_settings_have_headings():
    ctx = click.Context(COMMANDS["fit"])
    headings = re.findall(r"^(\w+):$", COMMANDS["fit"].get_help(ctx), re.MULTILINE)
    assert headings == ["Options", "Dataset", "Model", "Training", "Workers"]


def test_no_group_of_settings_is_an_option_itself():
    for command in COMMANDS.values():
        assert not [o for o in command.params if isinstance(o, SettingOptions)]
