"""The progress of all tasks in one view."""

import io
import re
import threading

import pytest

from ppl_vae.engines import ProgressRow, showing_progress


class Terminal(io.StringIO):
    """Says that it is one, and shows what is on the screen after everything written so far."""

    def isatty(self):
        return True

    @property
    def screen(self):
        rows, at = {}, 0
        for token in re.findall(r"\x1b\[\d*[AKJ]|\r|\n|[^\x1b\r\n]+", self.getvalue()):
            if token.endswith("A"):
                at -= int(token[2:-1])
            elif token == "\x1b[J":
                rows = {number: row for number, row in rows.items() if number < at}
            elif token == "\n":
                at += 1
            elif token not in ("\r", "\x1b[K"):
                rows[at] = token
        return [rows[number] for number in sorted(rows)]


@pytest.fixture(autouse=True)
def window(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "10")


class Cells:
    """Rows that a test sets; ``looked`` waits until they were shown."""

    def __init__(self, *rows):
        self.rows, self.asked = rows, threading.Condition()

    def __call__(self):
        with self.asked:
            self.asked.notify_all()
            return self.rows

    def looked(self):
        # Twice: what was asked for the first time may not be on the screen yet.
        with self.asked:
            assert self.asked.wait(20)
            assert self.asked.wait(20)


A, B, C = (ProgressRow(name, "waiting") for name in "abc")
RUNS = ProgressRow("a", "running", 3, 12, "loss 90.1")


def test_a_line_for_each_that_finishes():
    cells, file = Cells(ProgressRow("z", "done"), A, B, C), io.StringIO()
    with showing_progress(cells, every=0.01, file=file):
        cells.rows = (
            ProgressRow("z", "done"),
            ProgressRow("a", "done", text="log p(x) = -90.1"),
            RUNS,
            C,
        )
        cells.looked()
        cells.rows = (*cells.rows[:2], ProgressRow("b", "failed", text="ValueError: no"), C)
        cells.looked()
    assert file.getvalue() == "a: done, log p(x) = -90.1\nb: failed, ValueError: no\n"


def test_what_finished_between_two_looks_is_told_at_the_end():
    cells, file = Cells(A), io.StringIO()
    with showing_progress(cells, every=1000, file=file):
        cells.rows = (ProgressRow("a", "done"),)
    assert file.getvalue() == "a: done\n"


def test_a_table_on_a_terminal():
    cells, file = Cells(A, B, C), Terminal()
    with showing_progress(cells, what="cells", every=0.01, file=file):
        assert file.screen[0].startswith("cells:   0%|")
        assert "0/3" in file.screen[0]
        assert "3 waiting" in file.screen[0]
        cells.rows = (RUNS, ProgressRow("b", "running", text="reading data"), C)
        cells.looked()
        first, second, total = file.screen
        assert first.startswith("a |█████ ")
        assert first.endswith("| 3/12 loss 90.1")
        assert second == "b  reading data"
        assert "2 running, 1 waiting" in total
        cells.rows = (ProgressRow("a", "done", 12, 12), ProgressRow("b", "failed", text="no"), C)
        cells.looked()
    first, second, total = file.screen
    assert (first, second) == ("a: done", "b: failed, no")
    assert total.startswith("cells:  67%|")
    assert "1 waiting, 1 failed" in total


def test_more_rows_than_the_terminal_has():
    many = tuple(ProgressRow(f"cell {n:03} {'x' * 100}", "running", n, 500) for n in range(300))
    file = Terminal()
    with showing_progress(lambda: many, every=1000, file=file):
        assert len(file.screen) == 9
        assert file.screen[-2] == "... and 293 more"
        assert max(map(len, file.screen)) <= 79
    assert len(file.screen) == 9


def test_rows_that_cannot_be_read_just_now():
    calls, file = [], io.StringIO()

    def rows():
        calls.append(1)
        if len(calls) == 1:
            return [A]
        if len(calls) == 2:
            raise ValueError("half a file")
        return [ProgressRow("a", "done")]

    with (
        showing_progress(rows, every=1000, file=file),
        showing_progress(rows, every=1000, file=file),
    ):
        pass
    assert file.getvalue() == "a: done\n"


def test_what_goes_wrong_inside_is_not_hidden():
    file = io.StringIO()
    with pytest.raises(KeyboardInterrupt), showing_progress(lambda: [A], every=0.01, file=file):
        raise KeyboardInterrupt
    assert [t.name for t in threading.enumerate() if t.name == "progress"] == []
