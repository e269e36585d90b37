"""Top-level names: complete by family, loaded on first use, and what a wrong one is answered."""

import ast
import re
import subprocess
import sys
from functools import partial
from math import inf, nan
from pathlib import Path

import pytest

import ppl_vae as pv
from ppl_vae._renamed import RENAMED
from ppl_vae.names import (
    did_you_mean,
    plural,
    require_known,
    require_least,
    require_not_negative,
    require_positive,
    require_share,
)

PACKAGE = Path(pv.__file__).parent


def test_every_module_is_an_attribute():
    modules = {
        path.stem
        for path in PACKAGE.iterdir()
        if (path.suffix == ".py" or (path / "__init__.py").exists()) and path.stem[0] != "_"
    }
    assert modules <= set(pv.__all__)
    assert all(getattr(pv, name).__name__ == f"ppl_vae.{name}" for name in modules)


def test_families_are_complete():
    """What has a name on the command line has one in Python."""
    family = [
        *(build for kind in pv.registry.KINDS.values() for build in kind.values()),
        *pv.networks.DECODER_NETWORKS.values(),
    ]
    missing = {cls.__name__ for cls in family if getattr(pv, cls.__name__, None) is not cls}
    assert missing == set()


def test_stub_and_package_have_the_same_names():
    """Type checkers read the stub, Python builds its names from it."""
    stub = ast.parse((PACKAGE / "__init__.pyi").read_text())
    imported = {
        (node.module, alias.name)
        for node in stub.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert {name for _, name in imported} == set(pv.__all__)
    assert all(
        getattr(pv, name) is (getattr(getattr(pv, module), name) if module else getattr(pv, name))
        for module, name in imported
    )
    declared = {node.target.id for node in stub.body if isinstance(node, ast.AnnAssign)}
    assert declared == {"__version__"}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("IWEA", "no name 'IWEA' in ppl_vae; did you mean IWAE?"),
        ("likelihood", "no name 'likelihood' in ppl_vae; did you mean likelihoods?"),
        ("open_run", "no name 'open_run' in ppl_vae; it is ppl_vae.runs.open_run"),
        ("RBM", "no name 'RBM' in ppl_vae; it is ppl_vae.baselines.RBM"),
        ("Zebra123", "no name 'Zebra123' in ppl_vae"),
        ("__wrapped__", "no name '__wrapped__' in ppl_vae"),
    ],
)
def test_a_wrong_name_is_answered_with_the_nearest(name, message):
    with pytest.raises(AttributeError) as error:
        getattr(pv, name)
    assert str(error.value) == message


def test_case_does_not_count_for_nearness():
    assert did_you_mean("iwae", ["IWAE", "ELBO"]) == "did you mean 'IWAE'?"
    assert did_you_mean("zzz", ["IWAE", "ELBO"]) == ""
    with pytest.raises(ValueError, match=r"^unknown prior 'x': known: a, b\.$"):
        require_known("prior", "x", ["a", "b"])
    with pytest.raises(ValueError, match=r"^unknown argument 'x': there are none here\.$"):
        require_known("argument", "x", [])


@pytest.mark.parametrize("arguments", [["-m", "ppl_vae", "--version"]], ids=" ".join)
def test_the_module_is_the_command(arguments):
    done = subprocess.run(
        [sys.executable, "-W", "error", *arguments], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip().endswith(pv.__version__)
    assert done.stderr == ""


def test_import_is_without_warnings():
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "import ppl_vae"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("", "")


def test_the_citation_is_of_this_version():
    cited = (Path(pv.__file__).parents[1] / "CITATION.cff").read_text()
    assert f"\nversion: {pv.__version__}\n" in cited


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_an_old_name_works_for_one_version_more(old, new):
    with pytest.warns(DeprecationWarning, match=f"ppl_vae.{old} is called {new} now"):
        found = getattr(pv, old)
    assert found is getattr(pv, new)
    assert old not in pv.__all__


@pytest.mark.parametrize(
    ("check", "good", "bad", "message"),
    [
        (partial(require_least, 2), 2, 1, "x must be 2 or more, got 1."),
        (require_positive, 1e-300, 0.0, "x must be positive and finite, got 0.0."),
        (require_positive, 3, inf, "x must be positive and finite, got inf."),
        (require_not_negative, 0.0, -1.0, "x must be 0 or more and finite, got -1.0."),
        (require_not_negative, 1, nan, "x must be 0 or more and finite, got nan."),
        (require_share, 0.5, 1.0, "x must be between 0 and 1, got 1.0."),
        (require_share, 0.5, nan, "x must be between 0 and 1, got nan."),
    ],
)
def test_an_argument_out_of_range_is_named(check, good, bad, message):
    check(x=good)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        check(y=good, x=bad)


def test_one_row_is_no_plural():
    assert [plural(n, "row") for n in (0, 1, 2000)] == ["0 rows", "1 row", "2,000 rows"]


CALLER = """\
from functools import partial
from ppl_vae.names import warn

call = eval("lambda f: f()", {"__name__": "torch.nn.modules"})
for name in ("pyro.poutine", "ppl_vae.training._fit", "ppl_vae"):
    call = eval("lambda f: call(f)", {"__name__": name, "call": call})
call(partial(warn, "a warning"))
"""


def test_a_warning_is_of_the_line_that_called_the_package(tmp_path):
    """Whatever frames of the package, of torch and of pyro lie between."""
    script = tmp_path / "caller.py"
    script.write_text(CALLER)
    command = [sys.executable, script]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert found.stderr.startswith(f"{script}:7: UserWarning: a warning\n")
