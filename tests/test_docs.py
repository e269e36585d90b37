"""The Python blocks of README and the quickstart run as printed, and the docs build."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def blocks(path):
    return re.findall(r"^```python\n(.*?)^```", (ROOT / path).read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("path", ["README.md", "docs/quickstart.md"])
def test_python_blocks_run_in_order(path, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    namespace = {}
    found = blocks(path)
    assert found
    for block in found:
        # The real epochs take a minute; what is tested is that every line runs.
        exec(compile(re.sub(r"epochs=\d+", "epochs=1", block), path, "exec"), namespace)
    assert "log p(x) = " in capsys.readouterr().out


@pytest.mark.parametrize("check", ["check_objective", "check_evidence"])
def test_extensions_pass_the_check_they_show(check, capsys, unchecked_types):
    (block,) = [b for b in blocks("docs/extending.md") if f"import {check}" in b]
    exec(compile(block, "docs/extending.md", "exec"), {"__name__": "__main__"})
    assert "|z| below" in capsys.readouterr().out


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


def test_docs_build_without_warnings(tmp_path):
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "-b", "html", str(ROOT / "docs"),
               str(tmp_path / "html")]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "html" / "index.html").stat().st_size > 1000
