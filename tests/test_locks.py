"""One process at a time, and who it is."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from ppl_vae.files import exclusive

HOLDS = """
import sys, time
from pathlib import Path
from ppl_vae.files import exclusive
with exclusive(Path(sys.argv[1]), "study"):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def lock(tmp_path):
    return tmp_path / "study" / "study.lock"


@pytest.fixture
def holder(lock):
    """Another process that holds the lock."""
    command = [sys.executable, "-c", HOLDS, lock]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_says_who_holds_it(lock, holder):
    pattern = (
        rf"study x is in use by process {holder.pid} on {socket.gethostname()} since 20\S+: wait "
        rf"until it is done, or stop it first \(lock file \S+study\.lock\)\.$"
    )
    with pytest.raises(BlockingIOError, match=pattern) as caught, exclusive(lock, "study x"):
        pass
    assert "\n" not in str(caught.value)


def test_a_killed_process_holds_nothing(lock, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with exclusive(lock, "study"):
        assert json.loads(lock.with_name("study.lock.holder").read_text())["pid"] == os.getpid()
    assert not lock.with_name("study.lock.holder").exists()


def test_waits_for_a_process_that_is_about_to_end(lock, holder):
    threading.Timer(0.3, holder.kill).start()
    with exclusive(lock, "study", wait=30):
        pass


def test_waits_no_longer_than_it_is_told(lock, holder):
    begun = time.monotonic()
    with pytest.raises(BlockingIOError), exclusive(lock, "study", wait=0.2):
        pass
    assert time.monotonic() - begun >= 0.2


def test_twice_in_one_process(lock):
    with exclusive(lock, "a"):
        with pytest.raises(BlockingIOError, match=f"process {os.getpid()}"), exclusive(lock, "b"):
            pass
        with exclusive(lock.with_name("other.lock"), "c"):
            pass
    with exclusive(lock, "a"):
        pass


def test_is_let_go_of_when_the_work_fails(lock):
    with pytest.raises(ZeroDivisionError), exclusive(lock, "a"):
        raise ZeroDivisionError
    with exclusive(lock, "a"):
        pass


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": 1}'])
def test_a_holder_that_has_not_said_yet_who_it_is(lock, holder, content):
    lock.with_name("study.lock.holder").write_text(content)
    with pytest.raises(BlockingIOError, match="in use by another process:"), exclusive(lock, "a"):
        pass
