"""What happens in a worker of a cluster; nothing here needs Ray."""

import os
import pickle
import sys
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from ppl_vae.engines._task import Outcome, perform


@final
@dataclass(frozen=True)
class Surroundings:
    """What a worker takes over from the process that sends it tasks.

    Attributes:
        folder: Where relative paths start.
        search_path: Where modules are found, after the worker's own.
        threads: Of torch.
        gpus: Whether tasks may see a GPU: those given to them. A task that asked for none must not
            take one that is another's.
    """

    threads: int
    gpus: bool
    folder: Path = field(default_factory=Path.cwd)
    search_path: tuple[str, ...] = field(default_factory=lambda: tuple(sys.path))

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Work in these surroundings."""
        sys.path.extend(entry for entry in self.search_path if entry not in sys.path)
        if not self.gpus:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        if not self.folder.is_dir():
            raise FileNotFoundError(
                f"folder {self.folder} is not on this node: work in a folder that all nodes of the "
                "cluster see."
            )
        with chdir(self.folder):
            yield


def perform_there(name: str, packed: bytes, around: Surroundings, attempts: int) -> Outcome:
    """Unpack a task and do its work.

    Args:
        name: The task's.
        packed: Its function and arguments, pickled.
        around: Where it would be done in process.
        attempts: How often it was started, this time included.
    """

    def work() -> Any:
        with around.entered():
            # After the search path is there, which the function may be found on.
            function, arguments = pickle.loads(packed)
            return function(*arguments)

    return perform(name, work, around.threads, attempts)
