"""kill -9 at a change that work makes to files, by the number of the change and not by the clock.

What is on the disk depends on which change was the last. A moment depends on the machine: on a busy
one all of them may fall into the same half of the work, or past its end.
"""

import os
import signal
import sys

_CHANGES = {"os.mkdir", "os.remove", "os.rename", "os.rmdir"}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_changes, _last = 0, None


def _see(event, arguments):
    """Count the changes; an audit hook, which Python calls before each of them."""
    global _changes
    if event in _CHANGES or (event == "open" and (arguments[2] or 0) & _WRITING):
        _changes += 1
        if _changes == _last:
            os.kill(os.getpid(), signal.SIGKILL)


sys.addaudithook(_see)


def count_changes(work):
    """Work, and give the number of changes that it makes."""
    global _changes
    _changes = 0
    work()
    return _changes


def killed_before(number, work):
    """Work in a child that is killed before its change of this number; whether it came to that."""
    global _changes, _last
    child = os.fork()
    if not child:
        _changes, _last = 0, number
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    # A child that fails by itself is no kill.
    assert status in (0, -signal.SIGKILL), status
    return status != 0
