"""One task after the other, here."""

from collections.abc import Generator, Iterable
from dataclasses import dataclass
from functools import partial
from typing import final

from ppl_vae.engines._task import Outcome, Task, perform


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
            yield perform(task.name, partial(task.function, *task.arguments), self.cpus)
