"""Tasks, their outcomes, and how one is performed: in this process or in a worker elsewhere."""

import os
import pickle
import sys
import traceback
from collections.abc import Callable, Generator, Iterable
from contextlib import chdir, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol, final

from ppl_vae.cpu import given_threads

_LONGEST = 500
"""Characters of a reason; the traceback has the rest."""


@final
@dataclass(frozen=True)
class Task:
    """Call ``function(*arguments)``.

    Attributes:
        name: For people; unique among the tasks of one run.
        function: Function at the top level of a module, so that another process can import it.
        arguments: Arguments of the function; small, and of classes that can be pickled.
    """

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...] = ()


@final
@dataclass(frozen=True)
class Outcome:
    """Result of a task, or the reason why there is none.

    Attributes:
        name: Name of the task.
        value: Return value of its function; None if it failed.
        error: Reason why it failed, in one line; None if it did not.
        traceback: Traceback of the failure.
        attempts: Number of times that it was started: more than one if a worker or a node died.
    """

    name: str
    value: Any = None
    error: str | None = None
    traceback: str | None = None
    attempts: int = 1


class Engine(Protocol):
    """Protocol of engines, which run tasks."""

    def run(self, tasks: Iterable[Task]) -> Generator[Outcome, None, None]:
        """Run all tasks, and give the outcome of each as it finishes.

        Tasks are taken from the iterable as there is room for them, and nothing is kept of those
        that are finished, so that there may be any number. A task that raises does not stop the
        others. Closing the iterator, or an interruption, stops what is under way.
        """
        ...


@final
@dataclass(frozen=True)
class InProcess:
    """Runs tasks in this process, one at a time, in their order.

    Args:
        cpus: Threads of torch in a task; None leaves them as they are. Results depend on it in the
            last bits: for the numbers of a ``RayEngine``, give its ``cpus``.

    Raises:
        ValueError: If cpus is less than 1.
    """

    cpus: int | None = None

    def __post_init__(self) -> None:
        if self.cpus is not None and self.cpus < 1:
            raise ValueError(f"InProcess needs cpus >= 1, or None, got {self.cpus}.")

    def run(self, tasks: Iterable[Task]) -> Generator[Outcome, None, None]:
        """Run the next task whenever its outcome is asked for; an interruption passes through."""
        for task in tasks:
            yield _perform(task.name, partial(task.function, *task.arguments), self.cpus)


@final
@dataclass(frozen=True)
class Surroundings:
    """Settings that a worker takes over from the process that sends it tasks.

    Attributes:
        threads: Number of torch's threads.
        gpus: Whether tasks may see a GPU: those given to them. A task that asked for none must not
            take one that is another's.
        folder: Folder where relative paths start.
        search_path: Folders where modules are found, after the worker's own.
    """

    threads: int
    gpus: bool
    folder: Path = field(default_factory=Path.cwd)
    search_path: tuple[str, ...] = field(default_factory=lambda: tuple(sys.path))


def perform_in_worker(name: str, packed: bytes, around: Surroundings, attempts: int) -> Outcome:
    """Unpack a task and do its work; nothing here needs Ray.

    Args:
        name: Name of the task.
        packed: Its function and arguments, pickled.
        around: Settings of the process that sends the task.
        attempts: Number of times that it was started, this time included.
    """

    def work() -> Any:
        sys.path.extend(entry for entry in around.search_path if entry not in sys.path)
        if not around.gpus:
            # Before torch first asks for GPUs, after which the variable is not read any more.
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        if not around.folder.is_dir():
            raise FileNotFoundError(
                f"folder {around.folder} is not on this node: work in a folder that all nodes of "
                "the cluster see."
            )
        with chdir(around.folder):
            # Only now: the function may be in a module that the search path leads to.
            function, arguments = pickle.loads(packed)
            return function(*arguments)

    return _perform(name, work, around.threads, attempts)


def _perform(name: str, work: Callable[[], Any], threads: int | None, attempts: int = 1) -> Outcome:
    """Do the work of a task; whatever it raises but an interruption becomes its outcome."""
    with nullcontext() if threads is None else given_threads(threads):
        try:
            return Outcome(name, work(), attempts=attempts)
        # SystemExit too: a task that calls sys.exit() must not end the worker or the study.
        except (Exception, SystemExit) as error:
            return failed(name, error, attempts)


def failed(name: str, error: BaseException, attempts: int = 1) -> Outcome:
    """Outcome of a task that raised, with ``Class: message`` in one line."""
    reason = " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
    if len(reason) > _LONGEST:
        reason = f"{reason[: _LONGEST - 4]} ..."
    where = "".join(traceback.format_exception(error))
    return Outcome(name, error=reason, traceback=where, attempts=attempts)
