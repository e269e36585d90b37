"""Extensions pass the checks that they show, and pages say what the code says."""

import importlib.util
import re
import sys
import types
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]


def blocks(path):
    return re.findall(r"^```python\n(.*?)^```", (ROOT / path).read_text(), re.DOTALL | re.MULTILINE)


@pytest.fixture
def module(monkeypatch):
    """Code as a module of its own, whose classes can be pickled."""
    made = types.ModuleType("extension")
    monkeypatch.setitem(sys.modules, made.__name__, made)
    return vars(made)


CHECKS = ["check_prior", "check_likelihood", "check_guide", "check_objective", "check_evidence"]


@pytest.mark.parametrize("check", CHECKS)
def test_extensions_pass_the_check_they_show(check, module, capsys, unchecked_types):
    (block,) = [b for b in blocks("docs/extending.md") if f"import {check}" in b]
    exec(compile(block, "docs/extending.md", "exec"), module)
    assert "|z| below" in capsys.readouterr().out


def test_a_whole_pyro_model_of_ones_own_is_trained_and_evaluated(module, capsys):
    (block,) = [b for b in blocks("docs/extending.md") if "import pyro\n" in b]
    means = []
    for epochs in (1, 8):
        torch.manual_seed(0)
        few = re.sub(r"epochs=\d+", f"epochs={epochs}", block)
        exec(compile(few, "docs/extending.md", "exec"), module)
        means.append(module["evidence"].mean)
    assert "log p(x) = " in capsys.readouterr().out
    assert means[1] > means[0] + 5 * module["evidence"].total_error


def test_files_that_the_readme_shows_exist():
    text = (ROOT / "README.md").read_text()
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (ROOT / target).exists(), target


def test_the_page_of_objectives_is_what_the_classes_say():
    path = ROOT / "docs" / "generate_objectives.py"
    spec = importlib.util.spec_from_file_location("generate_objectives", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.PAGE.read_text() == module.page(), "run python docs/generate_objectives.py"
