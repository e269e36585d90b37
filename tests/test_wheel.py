"""The wheel: what is in it, and that its command works where the source is not."""

import email
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import ppl_vae as pv

ROOT = Path(__file__).parents[1]
SOURCES = ["pyproject.toml", "LICENSE", "docs/pypi.md"]


def run(*command, **options):
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        capture_output=True, text=True, check=False, **options,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy, so that the source folder stays clean; needs no network."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built")
    shutil.copytree(
        ROOT / "ppl_vae", source / "ppl_vae", ignore=shutil.ignore_patterns("__pycache__")
    )
    for name in SOURCES:
        (source / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    code = f"from setuptools import build_meta; build_meta.build_wheel({str(built)!r})"
    run("-c", code, cwd=source)
    (path,) = built.iterdir()
    return path


def test_metadata(wheel):
    with zipfile.ZipFile(wheel) as files:
        names = files.namelist()
        (metadata,) = [name for name in names if name.endswith(".dist-info/METADATA")]
        found = email.message_from_string(files.read(metadata).decode())
    assert found["Version"] == pv.__version__
    assert found["License-Expression"] == "MIT"
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert found["Author"] == "the ppl_vae authors"
    assert found["Keywords"]
    assert found.get_all("Classifier")
    # A package index has no files beside the text.
    assert re.findall(r"\]\((?!https://)[^)]*\)|<img", found.get_payload()) == []
    assert {"ppl_vae/py.typed", "ppl_vae/__init__.pyi", "ppl_vae/__main__.py"} <= set(names)
    assert any(name.startswith("ppl_vae/report/page/") for name in names)
    assert not any(name.startswith(("tests", "benchmarks", "docs")) for name in names)


def test_the_installed_command_trains(wheel, tmp_path):
    """Installed into a folder of its own, beside the libraries that it needs."""
    site, work = tmp_path / "site", tmp_path / "work"
    work.mkdir()
    run("-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", site, wheel)
    environment = {**os.environ, "PYTHONPATH": str(site), "PYTHONSAFEPATH": "1"}
    here = {"cwd": work, "env": environment}
    place = run("-c", "import ppl_vae; print(ppl_vae.__file__)", **here)
    assert Path(place.strip()).is_relative_to(site)
    command = site / "bin" / "ppl-vae"
    assert run(command, "--version", **here).strip().endswith(pv.__version__)
    small = ["--hidden", "8", "--latent", "2"]
    out = run(command, "fit", "--data", "digits", "--epochs", "1", *small, "--out", "run", **here)
    assert "next: ppl-vae evaluate run" in out
    assert (work / "run" / "checkpoint.safetensors").exists()
