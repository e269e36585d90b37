import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from ppl_vae.files import (
    append_text,
    leftovers,
    make_folder,
    printable,
    replacing,
    require_file_name,
    write_atomically,
)

FAULTS = ["fsync", "replace", "write_bytes"]


def fail_with(monkeypatch, function, error):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(os if hasattr(os, function) else Path, function, fail)


@pytest.mark.parametrize("place", ["file", "file/folder"])
def test_a_file_in_the_place_of_a_folder_is_named(place, tmp_path):
    (tmp_path / "file").write_text("precious")
    with pytest.raises(NotADirectoryError, match=r"name another folder") as error:
        make_folder(tmp_path / place)
    assert str(tmp_path / place) in str(error.value)
    assert (tmp_path / "file").read_text() == "precious"


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


def test_a_link_is_replaced_and_what_it_points_to_is_untouched(tmp_path):
    mine, link = tmp_path / "mine", tmp_path / "file"
    mine.write_text("mine")
    link.symlink_to(mine)
    write_atomically(link, "new")
    assert link.read_text() == "new"
    assert not link.is_symlink()
    assert mine.read_text() == "mine"


def test_nothing_is_added_to_a_file_through_a_link(tmp_path):
    mine, link = tmp_path / "mine", tmp_path / "log"
    mine.write_text("mine")
    link.symlink_to(mine)
    with pytest.raises(OSError, match="log is a symbolic link"):
        append_text(link, "new")
    assert mine.read_text() == "mine"
    link.unlink()
    append_text(link, "a\n")
    append_text(link, "b\n")
    assert link.read_text() == "a\nb\n"


def test_what_a_killed_process_left_goes_with_the_next_file_and_nothing_else_does(tmp_path):
    others = [".notes.old.20240101", ".env.local.password", ".file.a1b2c3d4", ".ppl_vae-x.tmp"]
    for name in others:
        (tmp_path / name).write_text("mine")
    left = tmp_path / ".ppl_vae-a1b2c3d4.tmp"
    left.mkdir()
    (left / "file").write_text("half")
    assert leftovers(tmp_path) == [left]
    write_atomically(tmp_path / "file", "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*others, "file"])


def test_what_is_being_written_is_not_taken_for_left_behind(tmp_path):
    with replacing(tmp_path / "first") as temporary:
        temporary.write_text("first")
        assert leftovers(tmp_path) == []
        write_atomically(tmp_path / "second", "second")
    assert (tmp_path / "first").read_text() == "first"
    assert leftovers(tmp_path) == []


def test_the_folder_is_synced_after_the_rename(tmp_path, monkeypatch):
    events, fsync, replace = [], os.fsync, os.replace

    def watched_fsync(descriptor):
        events.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def watched_replace(source, target):
        events.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "replace", watched_replace)
    write_atomically(tmp_path / "file", "x")
    assert events == ["file", "rename", "folder"]


def test_a_new_folder_is_synced_in_the_one_above(tmp_path, monkeypatch):
    synced, fsync = [], os.fsync

    def watched(descriptor):
        synced.append(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    make_folder(tmp_path / "a" / "b")
    assert set(synced) == {folder.stat().st_ino for folder in (tmp_path, tmp_path / "a")}
    synced.clear()
    make_folder(tmp_path / "a" / "b")
    assert not synced


@pytest.mark.parametrize(
    "name", ["x/../../../pwned", "..", ".hidden", "a\\b", "a\x1bb", "", "a" * 200]
)
def test_a_name_that_leaves_its_folder_is_refused_in_one_line(name):
    with pytest.raises(ValueError, match=r"label .* is part of a file's name") as caught:
        require_file_name("label", name)
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)


def test_what_steers_a_terminal_is_not_printed():
    text = "\x1b]0;title\x07\x1b[2Jfailed\r\n\tat \x9b31m\u202egnp.exe"
    assert printable(text) == "]0;title[2Jfailed\n\tat 31mgnp.exe"


def test_many_that_write_into_one_folder_leave_each_other_alone(tmp_path):
    """A folder that was just made, and not locked yet, is nobody's to remove."""
    code = (
        "import sys; from pathlib import Path; from ppl_vae.files import write_atomically\n"
        "for k in range(300): write_atomically(Path(sys.argv[1]) / sys.argv[2], str(k))"
    )
    writers = [
        subprocess.Popen([sys.executable, "-c", code, tmp_path, name], stderr=subprocess.PIPE)
        for name in "abcd"
    ]
    for writer in writers:
        _, error = writer.communicate()
        assert writer.returncode == 0, error.decode()
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(
        "abcd", "299"
    )
