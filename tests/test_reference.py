"""The documentation builds without a warning, and its reference holds every exported name."""

import importlib
import inspect
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import ppl_vae as pv

ROOT = Path(__file__).parents[1]
# Without the collection of garbage, a third of the time: nothing is thrown away before the end.
SPHINX = """
import gc, sys
from sphinx.cmd.build import main
gc.disable()
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Sphinx's process and the names that it has a place for."""
    folder = tmp_path_factory.mktemp("docs")
    # Every reference is resolved (-n) and none may fail (-W); pages of HTML are not needed for it.
    command = [sys.executable, "-c", SPHINX, "-q", "-W", "--keep-going", "-b", "dummy",
               "-d", str(folder / "trees"), str(ROOT / "docs"), str(folder / "out")]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    environment = pickle.loads((folder / "trees" / "environment.pickle").read_bytes())
    return done, set(environment.domaindata["py"]["objects"])


def exported():
    """``folder.Name`` of every class and function that a folder or the top exports."""
    for module in map(pv.__getattr__, pv.__all__):
        if not inspect.ismodule(module):
            continue
        for name in getattr(importlib.import_module(module.__name__), "__all__", ()):
            found = getattr(module, name)
            ours = (getattr(found, "__module__", None) or "").startswith("ppl_vae.")
            if ours and (inspect.isclass(found) or inspect.isfunction(found)):
                yield f"{module.__name__}.{name}"


def test_the_pages_build_without_warnings_and_hold_every_exported_name(built):
    done, documented = built
    assert done.returncode == 0, done.stderr
    names = set(exported())
    assert len(names) > 300
    assert names - documented == set(), "add their folder to a page under docs/api"


def test_names_at_the_top_are_exported_by_their_folders():
    names = {name.rpartition(".")[2] for name in exported()}
    own = [name for name in pv.__all__ if not inspect.ismodule(getattr(pv, name))]
    alone = {"refinement", "linear_gaussian", "schedules"}  # modules without a list
    missing = [name for name in own if name not in names]
    assert {getattr(pv, name).__module__.split(".")[1] for name in missing} <= alone
