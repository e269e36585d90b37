"""What somebody else's folder or file may import: nothing, unless it is trusted."""

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ppl_vae.cli import main
from ppl_vae.objectives import ELBO, OBJECTIVES
from ppl_vae.priors import PRIORS, StandardNormalPrior
from ppl_vae.registry import MODEL_KINDS
from ppl_vae.runs import (
    RunConfig,
    open_run,
    train_run,
)
from ppl_vae.runs._config import require_ours
from ppl_vae.store import write_sealed
from ppl_vae.studies import open_study, read_study
from ppl_vae.training import Snapshot

CONFIG = RunConfig.of(hidden=(8,), latent=2, epochs=1, batch_size=500, validation_particles=2)
CANARY = "from pathlib import Path\nPath('ran').touch()\n"
NOT_CLASSES = [
    "pip._internal.cli.main:main", "torch:load", "pandas:read_pickle", "os:system",
    "ppl_vae.files:write_atomically", "ppl_vae.netcdf:load_netcdf", "ppl_vae.components:importlib",
    "subprocess:Popen", "ppl_vae.cli._options:Command", "torch.nn:Moduel", "ppl_vae.vae:VAE",
]  # fmt: skip


class Outside(StandardNormalPrior):
    """A prior that is not of the package."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trust") / "run"
    train_run(CONFIG, folder, device="cpu", progress=False)
    return folder


@pytest.fixture
def stranger(trained, tmp_path, monkeypatch):
    """A folder one works in, with a run and modules of somebody else in it."""
    for path in filter(Path.is_file, trained.iterdir()):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    for name in ("evil", "zuko", "arviz_plots", "ray", "tensorboard"):
        (tmp_path / f"{name}.py").write_text(CANARY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", ".")])
    yield tmp_path
    assert not (tmp_path / "ran").exists()
    assert "evil" not in sys.modules


def with_settings(folder, **settings):
    path = folder / "config.json"
    saved = json.loads(path.read_text())
    saved["config"] |= settings
    path.write_text(json.dumps(saved))


def as_trained(folder):
    """Open the run, its checkpoint being of the configuration that the folder tells of."""
    config = RunConfig.from_mapping(json.loads((folder / "config.json").read_text())["config"])
    path = folder / "checkpoint.safetensors"
    checkpoint = Snapshot.load(path)
    told = checkpoint.identity | {"config": config.identity}
    replace(checkpoint, identity=told, before=None).save(path)
    return open_run(folder)


NAMED = [
    {"prior": "evil:Prior"},
    {"prior": "evil:Prior:3"},
    {"prior": {"class_path": "evil.Prior"}},
    {"likelihood": {"class_path": "evil:Prior", "init_args": {}}},
    {"guide": "evil:Prior"},
    {"network": {"class_path": "evil.Prior"}},
    {"objective": "evil:Objective"},
    {"objective": "evil:Objective:7+beta:4"},
]


@pytest.mark.parametrize("settings", NAMED, ids=str)
def test_a_run_that_names_a_class_of_others_needs_trust(stranger, settings):
    with_settings(stranger, **settings)
    with pytest.raises(ValueError, match=r"names 'evil[.:]\w+', .* give trust=True") as caught:
        open_run(stranger)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["evil:3", "evil", "evil:", ".evil:Prior", "evil:Prior.__init__"])
def test_a_name_that_is_no_class_s_path_is_unknown(stranger, name):
    for setting in ("prior", "objective"):
        with_settings(stranger, **{"prior": "normal", "objective": "elbo"} | {setting: name})
        with pytest.raises(
            ValueError, match=r"unknown (prior|objective)|give trust=True|run with other"
        ):
            open_run(stranger).config.build_objective()


@pytest.mark.parametrize(
    "path", [name for name in NOT_CLASSES if not name.startswith("torch.nn")], ids=str
)
def test_functions_are_not_called_through_a_folder(stranger, path):
    for spec in (path, {"class_path": path, "init_args": {"args": ["download", "x"]}}):
        with_settings(stranger, prior=spec)
        with pytest.raises(ValueError, match=r"no class of this package|is no prior of"):
            open_run(stranger, device="cpu")


def test_arguments_name_no_classes_either(stranger):
    inner = {"class_path": "evil.Prior", "init_args": {}}
    prior = {"class_path": "ppl_vae.priors.VampPrior", "init_args": {"components": inner}}
    with_settings(stranger, prior=prior)
    with pytest.raises(ValueError, match="components cannot be"):
        open_run(stranger)
    (stranger / "s.yaml").write_text(json.dumps({"config": {"prior": prior}}))
    with pytest.raises(ValueError, match="components cannot be"):
        read_study(stranger / "s.yaml")


@pytest.mark.parametrize(
    "plan",
    [{"config": settings} for settings in NAMED]
    + [{"factors": {name: [value, "x"]}} for settings in NAMED for name, value in settings.items()],
    ids=str,
)
def test_a_study_that_names_a_class_of_others_needs_trust(stranger, plan):
    (stranger / "study.yaml").write_text(json.dumps(plan))
    write_sealed(stranger / "study.json", {"plan": plan, "text": ""})
    write_sealed(stranger / "manifest.json", {})
    with pytest.raises(ValueError, match="give trust=True"):
        read_study(stranger / "study.yaml")
    with pytest.raises(ValueError, match="give trust=True"):
        open_study(stranger)


@pytest.mark.parametrize(
    "command",
    [["study", "status", "."], ["study", "report", "."], ["study", "run", "study.yaml"],
     ["evaluate", "."], ["sample", "."], ["diagnose", "."], ["gradients", "--model", "."],
     ["study", "add", "study.yaml", "--seeds", "1"], ["impute", "."]],
    ids=" ".join,
)  # fmt: skip
def test_commands_import_nothing_from_the_folder(stranger, command, capsys):
    with_settings(stranger, prior="evil:Prior")
    plan = {"config": {"prior": "evil:Prior"}}
    (stranger / "study.yaml").write_text(json.dumps(plan))
    write_sealed(stranger / "study.json", {"plan": plan, "text": ""})
    write_sealed(stranger / "manifest.json", {})
    with pytest.raises(SystemExit) as stop:
        main(command)
    assert stop.value.code == 1
    assert "give --trust" in capsys.readouterr().err
    assert str(stranger) not in sys.path


def test_trust_takes_a_class_of_others_and_what_is_typed_needs_none(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_prior_lib.py").write_text(
        "from ppl_vae.priors import StandardNormalPrior\n"
        "class Mine(StandardNormalPrior):\n    pass\n"
    )
    small = ["--epochs", "1", "--hidden", "8", "--latent", "2", "--batch-size", "500"]
    main(["fit", "--prior", "my_prior_lib:Mine", *small, "--out", "run"])
    # Going on with it is the same command, and imports what is typed.
    main(["fit", "--prior", "my_prior_lib:Mine", *small, "--out", "run"])
    with pytest.raises(SystemExit):
        main(["evaluate", "run", "--particles", "3"])
    assert "names 'my_prior_lib.Mine'" in capsys.readouterr().err
    main(["evaluate", "run", "--particles", "3", "--trust"])
    assert "log p(x)" in capsys.readouterr().out
    assert type(open_run(tmp_path / "run", trust=True).vae.prior).__name__ == "Mine"


def test_modules_here_are_found_only_where_a_class_is_typed(stranger):
    small = ["--epochs", "1", "--hidden", "8", "--latent", "2", "--batch-size", "500"]
    main(["fit", *small, "--device", "cpu", "--out", "plain"])
    assert str(stranger) not in sys.path


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["evaluate", ".", "--limit", "0"], "limit must be 1 or more rows, got 0"),
        (["evaluate", ".", "--limit", "-3"], "limit must be 1 or more rows, got -3"),
        (["diagnose", ".", "--rate-data", "-1"], "must be 0 or more, got -1"),
        (["diagnose", ".", "--chains", "0"], "must be 1 or more, got 0"),
        (["sample", ".", "--count", "0"], "must be between 1 and 100 columns, got 0"),
        (["sample", ".", "--count", "-2"], "must be between 1 and 100 columns, got -2"),
    ],
    ids=lambda value: " ".join(value[:1] + value[2:]) if isinstance(value, list) else "",
)
@pytest.mark.usefixtures("stranger")
def test_numbers_that_are_too_small_are_refused_in_one_line(command, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(command)
    assert stop.value.code in (1, 2)
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


@pytest.mark.parametrize("name", NOT_CLASSES)
def test_what_is_trusted_is_still_of_the_part_s_own_type(name):
    with pytest.raises(ValueError, match=r"prior '.*' is (a|no) |has no attribute"):
        PRIORS.resolve(name)


def test_types_by_kind():
    assert PRIORS.resolve(f"{__name__}:Outside") is Outside
    with pytest.raises(ValueError, match="is a class, expected a subclass of ppl_vae"):
        OBJECTIVES.resolve(f"{__name__}:Outside")
    assert OBJECTIVES.resolve("ppl_vae.objectives:ELBO") is ELBO


@pytest.mark.parametrize(
    "settings",
    [{"prior": name} for name in PRIORS]
    + [{"objective": f"{name}:2"} for name in OBJECTIVES]
    + [{"prior": {"class_path": "ppl_vae.priors.VampPrior"}}, {"guide": {"class_path": "normal"}},
       {"objective": "ppl_vae.objectives:IWAE:3"}, {"prior": 3}, {"objective": None}],
    ids=str,
)  # fmt: skip
def test_classes_of_this_package_need_no_trust(settings):
    require_ours(settings)


def test_parts_of_this_package_take_plain_values_only():
    """Else an argument could name a class, which the parser would import."""
    plain = re.compile(
        r"typing\.(Union\[float|Literal)|collections\.abc\.Sequence\[int\]|(int|float) \| None"
        r"|tuple\[int|<class .(int|float|bool).>"
    )
    for kind in MODEL_KINDS.values():
        for build in kind.values():
            for parameter in kind.parameters(build).values():
                assert plain.match(str(parameter.hint)), parameter
    assert PRIORS.outside_class("evil:P") == "evil:P"


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("class Prior(:\n", "importing my_lib failed: SyntaxError"),
        ("import not_there_at_all\n", "importing my_lib failed: No module"),
        ("raise RuntimeError('boom')\n", "importing my_lib failed: RuntimeError: boom"),
        ("raise SystemExit(3)\n", "importing my_lib failed: SystemExit: 3"),
        ("Prior = 3\n", "is a int, expected a subclass of torch.nn.Module"),
        ("", "has no attribute 'Prior'"),
    ],
)
def test_the_true_reason_of_a_module_that_fails(code, reason, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_lib.py").write_text(code)
    monkeypatch.delitem(sys.modules, "my_lib", raising=False)
    with pytest.raises(ValueError, match=r"my_lib") as caught:
        RunConfig.of(prior="my_lib:Prior").components  # noqa: B018
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
    sys.modules.pop("my_lib", None)
