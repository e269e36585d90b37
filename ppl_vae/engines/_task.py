"""A piece of work, what has become of it, and what an engine is."""

import traceback
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, final

import torch

_LONGEST = 500
"""Characters of a reason; the traceback has the rest."""


@final
@dataclass(frozen=True)
class Task:
    """``function(*arguments)``.

    Attributes:
        name: For people; unique among the tasks of one run.
        function: At the top level of a module, so that another process can import it.
        arguments: Of the function; small, and of classes that can be pickled.
    """

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...] = ()


@final
@dataclass(frozen=True)
class Outcome:
    """What has become of a task.

    Attributes:
        name: The task's.
        value: What its function returned; None if it failed.
        error: Why it failed, in one line; None if it did not.
        traceback: Where it failed.
        attempts: How often it was started: more than once if a worker or a node died.
    """

    name: str
    value: Any = None
    error: str | None = None
    traceback: str | None = None
    attempts: int = 1


class Engine(Protocol):
    """Whatever runs tasks."""

    def run(self, tasks: Iterable[Task]) -> Generator[Outcome, None, None]:
        """Run all tasks, and give what becomes of each as it finishes.

        Tasks are taken from the iterable as there is room for them, and nothing is kept of those
        that are finished, so that there may be any number. A task that raises does not stop the
        others. Closing the iterator, or an interruption, stops what is under way.
        """
        ...


def perform(name: str, work: Callable[[], Any], threads: int | None, attempts: int = 1) -> Outcome:
    """Do the work of a task; whatever it raises but an interruption becomes its outcome.

    Args:
        name: The task's.
        work: Its function with its arguments.
        threads: Of torch meanwhile; None leaves them as they are.
        attempts: How often the task was started, this time included.
    """
    with torch_threads(threads):
        try:
            return Outcome(name, work(), attempts=attempts)
        except (Exception, SystemExit) as error:
            return failed(name, error, attempts)


def failed(name: str, error: BaseException, attempts: int = 1) -> Outcome:
    """The outcome of a task that raised."""
    where = "".join(traceback.format_exception(error))
    return Outcome(name, error=reason(error), traceback=where, attempts=attempts)


def reason(error: BaseException) -> str:
    """``Class: message`` in one line."""
    text = " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 4]} ..."


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """So many threads for torch inside; the earlier number is put back."""
    if count is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
