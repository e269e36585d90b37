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
    """How far a task is.

    Attributes:
        name: The task's.
        state: What has become of it.
        done: Steps done, such as epochs.
        total: Of so many; None where nobody knows.
        text: What else there is to say, in a line.
    """

    name: str
    state: Literal["waiting", "running", "done", "failed"]
    done: int = 0
    total: int | None = None
    text: str = ""


@contextmanager
def watching(
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
        what: What the tasks are, in the plural.
        every: Seconds between two looks.
        file: Where to; the standard error stream by default.
    """
    view = _View(rows, what, sys.stderr if file is None else file)
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(every):
            view.try_to_draw()

    thread = threading.Thread(target=look, name="watching", daemon=True)
    view.try_to_draw()
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        view.try_to_draw()


@final
class _View:
    """What is on the screen."""

    def __init__(
        self, rows: Callable[[], Sequence[ProgressRow]], what: str, file: TextIOBase | TextIO
    ) -> None:
        self.rows, self.what, self.file = rows, what, file
        self.begun, self.lines = time.monotonic(), 0
        self.told: set[str] | None = None
        self.already = 0

    def try_to_draw(self) -> None:
        """Show how far tasks are now, if that is known."""
        try:
            rows = self.rows()
        except (OSError, ValueError):
            return
        self._draw(rows)

    def _draw(self, rows: Sequence[ProgressRow]) -> None:
        width, height = shutil.get_terminal_size()
        news = [_line(row) for row in self._news(rows)]
        if self.file.isatty():
            running = [row for row in rows if row.state == "running"]
            longest = max((len(row.name) for row in running), default=0)
            table = [_gauge(row, longest) for row in running]
            more = len(table) - max(1, height - 3)
            if more > 0:
                table = [*table[:-more], f"... and {more} more"]
            table = [line[: width - 1] for line in table] + [self._summary(rows, width - 1)]
            up = _UP.format(self.lines) if self.lines else ""
            self.lines = len(table)
            # In one write, line over line, so that nothing flickers.
            text = up + "".join(f"\r{line}{_ERASE_LINE}\n" for line in [*news, *table])
            self.file.write(text + _ERASE_BELOW)
        else:
            self.file.write("".join(f"{line}\n" for line in news))
        self.file.flush()

    def _news(self, rows: Sequence[ProgressRow]) -> list[ProgressRow]:
        """Those that were not finished at the last look; none at the first."""
        finished = [row for row in rows if row.state in _FINISHED]
        known = self.told
        self.told = {row.name for row in finished}
        if known is None:
            self.already = len(finished)
            return []
        return [row for row in finished if row.name not in known]

    def _summary(self, rows: Sequence[ProgressRow], width: int) -> str:
        count = Counter(row.state for row in rows)
        states = ", ".join(f"{count[s]} {s}" for s in ("running", "waiting", "failed") if count[s])
        return str(
            tqdm.format_meter(
                count["done"] + count["failed"],
                len(rows),
                time.monotonic() - self.begun,
                ncols=width,
                prefix=self.what,
                initial=self.already,
                bar_format="{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]",
                postfix=states or None,
            )
        )


def _line(row: ProgressRow) -> str:
    return _one_line(f"{row.name}: {row.state}{f', {row.text}' if row.text else ''}")


def _one_line(text: str) -> str:
    return printable(text).replace("\n", " ")


def _gauge(row: ProgressRow, width: int) -> str:
    """A row of the table, its name padded to a width."""
    name, text = _one_line(row.name).ljust(width), _one_line(row.text)
    if row.total is None:
        return f"{name} {row.done or ''} {text}"
    bar = tqdm.format_meter(
        min(row.done, row.total), row.total, 0, bar_format=f"{{bar:{_BAR}}}"
    )  # fmt: skip
    return f"{name} |{bar}| {row.done}/{row.total} {text}"
