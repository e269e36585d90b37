"""The progress of all tasks in one view, wherever they run."""

import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import TextIOBase
from typing import Literal, TextIO, final

from tqdm import tqdm

from ppl_vae.files import printable

_UP, _ERASE_LINE, _ERASE_BELOW = "\x1b[{}A", "\x1b[K", "\x1b[J"
_BAR = 20
_FINISHED = ("done", "failed")


@final
@dataclass(frozen=True)
class ProgressRow:
    """Progress of a task.

    Attributes:
        name: Name of the task.
        state: State of the task.
        done: Steps done, such as epochs.
        total: Number of all steps; None where it is not known.
        text: Further information, in a line.
    """

    name: str
    state: Literal["waiting", "running", "done", "failed"]
    done: int = 0
    total: int | None = None
    text: str = ""


@contextmanager
def showing_progress(
    rows: Callable[[], Sequence[ProgressRow]],
    *,
    what: str = "tasks",
    every: float = 1.0,
    file: TextIOBase | None = None,
) -> Iterator[None]:
    """Show how far all tasks are, while the work inside goes on.

    A finished task is a line. On a terminal, those that run are a table below, drawn anew in place.

    Args:
        rows: Gives all tasks as they are now; called from another thread. Where it cannot, because
            a file is just being written (OSError, ValueError), it is asked again later.
        what: Word for the tasks, in the plural.
        every: Seconds between two drawings.
        file: Stream to write to; the standard error stream by default.
    """
    view = _View(rows, what, sys.stderr if file is None else file)
    stop = threading.Event()

    def draw_repeatedly() -> None:
        while not stop.wait(every):
            view.draw()

    # A daemon, so that a view that hangs keeps no process alive.
    thread = threading.Thread(target=draw_repeatedly, name="progress", daemon=True)
    view.draw()
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        view.draw()


@final
class _View:
    def __init__(
        self, rows: Callable[[], Sequence[ProgressRow]], what: str, file: TextIOBase | TextIO
    ) -> None:
        self.rows, self.what, self.file = rows, what, file
        self.start, self.lines = time.monotonic(), 0
        self.shown: set[str] | None = None
        self.initial = 0

    def draw(self) -> None:
        """Write the tasks that finished since the last drawing, and on a terminal the table."""
        try:
            rows = self.rows()
        except (OSError, ValueError):
            return
        finished = {row.name: row for row in rows if row.state in _FINISHED}
        if self.shown is None:
            # What was finished before the first drawing is not news.
            self.shown, self.initial = set(finished), len(finished)
        news = [
            _one_line(f"{name}: {row.state}{f', {row.text}' if row.text else ''}")
            for name, row in finished.items()
            if name not in self.shown
        ]
        self.shown = set(finished)
        if self.file.isatty():
            table = self._table(rows)
            up = _UP.format(self.lines) if self.lines else ""
            self.lines = len(table)
            # In one write, line over line, so that nothing flickers.
            text = up + "".join(f"\r{line}{_ERASE_LINE}\n" for line in [*news, *table])
            self.file.write(text + _ERASE_BELOW)
        else:
            self.file.write("".join(f"{line}\n" for line in news))
        self.file.flush()

    def _table(self, rows: Sequence[ProgressRow]) -> list[str]:
        """A line for each task that runs, as many as the terminal has room for, and a summary."""
        width, height = shutil.get_terminal_size()
        running = [row for row in rows if row.state == "running"]
        longest = max((len(row.name) for row in running), default=0)
        table = [_gauge(row, longest) for row in running]
        # Lines above the top of the terminal cannot be drawn anew: the table must fit.
        more = len(table) - max(1, height - 3)
        if more > 0:
            table = [*table[:-more], f"... and {more} more"]
        count = Counter(row.state for row in rows)
        states = ", ".join(f"{count[s]} {s}" for s in ("running", "waiting", "failed") if count[s])
        summary = tqdm.format_meter(
            count["done"] + count["failed"],
            len(rows),
            time.monotonic() - self.start,
            ncols=width - 1,
            prefix=self.what,
            initial=self.initial,
            bar_format="{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]",
            postfix=states or None,
        )
        # Cut, as a line that wraps counts as two and the cursor would go up too few.
        return [*(line[: width - 1] for line in table), str(summary)]


def _one_line(text: str) -> str:
    return printable(text).replace("\n", " ")


def _gauge(row: ProgressRow, width: int) -> str:
    """A row of the table, its name padded to a width."""
    name, text = _one_line(row.name).ljust(width), _one_line(row.text)
    if row.total is None:
        return f"{name} {row.done or ''} {text}"
    done = min(row.done, row.total)
    bar = tqdm.format_meter(done, row.total, 0, bar_format=f"{{bar:{_BAR}}}")
    return f"{name} |{bar}| {row.done}/{row.total} {text}"
