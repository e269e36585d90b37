import errno
import os
import stat
from pathlib import Path

import pytest

from ppl_vae.files import write_atomically

FAULTS = ["fsync", "chmod", "replace", "write_bytes"]


def fail_with(monkeypatch, function, error):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(os if hasattr(os, function) else Path, function, fail)


def test_writes_text_and_bytes_into_new_folders(tmp_path):
    write_atomically(tmp_path / "a" / "b" / "text", "log p(x) für x\n")
    write_atomically(tmp_path / "a" / "bytes", b"\x00\xff")
    assert (tmp_path / "a" / "b" / "text").read_text(encoding="utf-8") == "log p(x) für x\n"
    assert (tmp_path / "a" / "bytes").read_bytes() == b"\x00\xff"


def test_replaces_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, "old")
    write_atomically(path, "new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_permissions_are_those_of_open(tmp_path):
    old = os.umask(0o027)
    try:
        write_atomically(tmp_path / "file", "x")
        assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(old)


@pytest.mark.parametrize("function", FAULTS)
def test_a_full_disk_leaves_the_old_file_whole(tmp_path, monkeypatch, function):
    path = tmp_path / "file"
    write_atomically(path, "old")
    fail_with(monkeypatch, function, OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(OSError, match=r"could not write .*file: No space left") as caught:
        write_atomically(path, "new")
    assert caught.value.errno == errno.ENOSPC
    assert "\n" not in str(caught.value)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_an_interruption_leaves_the_old_file_whole(tmp_path, monkeypatch, function):
    path = tmp_path / "file"
    write_atomically(path, "old")
    fail_with(monkeypatch, function, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError, match="could not write"):
        write_atomically(tmp_path / "file" / "below", "y")


def test_a_really_full_disk():
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("needs /dev/full")
    # The fault the tests above plant is the one the system makes.
    with pytest.raises(OSError, match="No space left") as caught:
        full.write_bytes(b"x")
    assert caught.value.errno == errno.ENOSPC
