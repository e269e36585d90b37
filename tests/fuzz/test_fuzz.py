"""Damaged files end in one line: they run nothing, do not hang, and take no more than 2 GB."""

import gzip
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from ppl_vae.data import load_dataset
from ppl_vae.settings_file import parse_settings
from ppl_vae.studies import read_study

TESTS = Path(__file__).parents[1]
ALL, SHARE = 180, 6
"""Damaged files of each of 12 kinds."""


def test_damaged_files(tmp_path, request):
    count = ALL if request.config.getoption("--fuzz-all") else SHARE
    environment = {**os.environ, "PYTHONPATH": f"{TESTS.parent}{os.pathsep}{TESTS}"}
    done = subprocess.run(
        [sys.executable, "-m", "fuzz.worker", tmp_path, "0", str(count)],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1]) == {}


def bomb(name, levels=24, width=6):
    """YAML of a few hundred bytes whose aliases stand for width ** levels entries."""
    lines = [f"{name}: &a0 [x]"]
    lines += [f"k{n}: &a{n} [{', '.join([f'*a{n - 1}'] * width)}]" for n in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (bomb("factors"), "aliases stand for more than 100,000 entries"),
        ("factors: &a [*a]", "an alias stands inside of what it stands for"),
        ("factors: " + "[" * 3000, "nested too deeply"),
        ("config: {hidden: '[&a [1, 1], &b [*a, *a], [*b, *b]]'}", "hidden cannot be"),
        ("question: " + "x" * 2_000_000, "characters are no settings"),
    ],
    ids=["aliases", "endless", "deep", "in text", "long"],
)
def test_a_study_s_file_that_stands_for_much_is_refused(text, message, tmp_path):
    (tmp_path / "study.yaml").write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        read_study(tmp_path / "study.yaml")
    assert len(str(caught.value)) < 1000
    assert "\n" not in str(caught.value)


def test_few_aliases_are_taken():
    assert parse_settings("a: &h [1, 2]\nb: *h") == {"a": [1, 2], "b": [1, 2]}


def test_compressed_files_that_hold_too_much_are_not_unpacked(tmp_path):
    header = {"descr": "<f8", "fortran_order": False, "shape": (1 << 16, 1 << 10)}
    with (
        zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as packed,
        packed.open("x.npy", "w", force_zip64=True) as file,
    ):
        np.lib.format.write_array_header_1_0(file, header)
        for _ in range(1 << 9):
            file.write(bytes(1 << 20))
    with pytest.raises(ValueError, match=r"x.npz: holds 536,87\d,\d+ bytes or more when unpacked"):
        load_dataset(tmp_path / "x.npz")
    names = [f"binarized_mnist_{split}.amat" for split in ("train", "valid", "test")]
    row = " ".join("0" * 784).encode() + b"\n"
    for name in names:
        with gzip.open(tmp_path / f"{name}.gz", "wb", compresslevel=1) as file:
            for _ in range(300 if "train" in name else 1):
                file.write((b"\n" * (1 << 20)) if "train" in name else row)
    with pytest.raises(ValueError, match=r"train.amat.gz: holds 268,435,457 bytes or more"):
        load_dataset("binarized-mnist", tmp_path)
