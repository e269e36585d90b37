"""Tasks on a Ray cluster."""

import math
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from ppl_vae.engines._cluster import Request, connected, living, require_address, require_ray
from ppl_vae.engines._ray_train import run_together
from ppl_vae.engines._task import Outcome, Surroundings, Task, failed, perform_in_worker

_AHEAD = 2
"""Tasks sent for each that has room, so that a worker that is done finds the next one."""
_LOOK = 1.0
"""Seconds after which the cluster's nodes are counted again."""
_HOMELESS = 60.0
"""Seconds to wait for a node to come back before tasks are given up that no node has room for."""
_GENTLE = 10.0
"""Seconds that tasks have to end by themselves when they are cancelled."""


@final
@dataclass(frozen=True)
class RayEngine:
    """Runs tasks on the nodes of a Ray cluster, as many at once as have room.

    A task whose worker or node dies, or is killed for want of memory, is started again, at most
    ``retries`` times. A task that raises is not: it would raise again. Workers work in the folder
    and with the module search path of this process; both must be there on every node.

    Args:
        address: Of the cluster, as ``host:port``, or ``auto`` for the one of this machine; None
            starts one on this machine's cores and stops it in the end.
        cpus: CPUs that a task takes, and threads of torch in it (1 at least).
        gpus: GPUs that a task takes; 0.25 puts four tasks on one. With 0 it sees none.
        retries: Further attempts of a task whose worker died.

    Raises:
        ImportError: If Ray is not installed.
        ValueError: If an argument is out of range.

    References:
        Moritz, Nishihara, Wang et al., 2018, Ray: A distributed framework for emerging AI
        applications.
    """

    address: str | None = None
    cpus: float = 1
    gpus: float = 0
    retries: int = 3

    def __post_init__(self) -> None:
        for name, value, least in (("cpus", self.cpus, 0.01), ("gpus", self.gpus, 0.0)):
            whole = value <= 1 or float(value).is_integer()
            if not (math.isfinite(value) and value >= least and whole):
                raise ValueError(
                    f"RayEngine needs {name} >= {least:g}, whole above 1, got {value}."
                )
        if self.retries < 0:
            raise ValueError(f"RayEngine needs retries >= 0, got {self.retries}.")
        require_address(self.address)
        require_ray()

    def run(self, tasks: Iterable[Task]) -> Generator[Outcome, None, None]:
        """Run tasks, and give their outcomes as they come; an interruption cancels what runs.

        Raises:
            ConnectionError: If there is no cluster at the address.
            TimeoutError: If nodes are lost so that none is left that has room for a task.
            ValueError: If no node of the cluster could ever take a task.
        """
        ray = require_ray()
        with connected(ray, self.address):
            flight = _Flight(ray, Request(self.cpus, self.gpus), self.retries)
            try:
                yield from flight.outcomes(iter(tasks))
            finally:
                flight.cancel()

    def run_together(
        self, function: Callable[..., Any], arguments: tuple[Any, ...], workers: int
    ) -> Any:
        """Call a function in several workers at once, by Ray Train; give the first one's value.

        The workers are one process group of torch: gloo for tensors on CPUs, NCCL on GPUs. When one
        of them dies all are started again, at most ``retries`` times, and the function must go on
        from what it has kept. An error that a worker raises ends all of them.

        Args:
            function: Function at the top level of a module.
            arguments: Arguments that can be pickled.
            workers: Number of workers, each with this engine's CPUs and GPUs.

        Raises:
            ConnectionError: If there is no cluster at the address, or workers died too often.
            ImportError: If Ray Train is not installed.
            ValueError: If workers is less than 1, they are to share GPUs, or the cluster has no
                room for so many.
        """
        if workers < 1:
            raise ValueError(f"workers must be 1 or more, got {workers}.")
        if 0 < self.gpus < 1 and workers > 1:
            # NCCL refuses two processes on one GPU.
            raise ValueError(
                f"workers that train one model need a GPU each, or none, got gpus={self.gpus:g}."
            )
        ray = require_ray()
        with connected(ray, self.address):
            request = Request(self.cpus, self.gpus)
            # Nodes of a cluster see the working folder, this machine its temporary ones.
            storage = None if self.address is None else Path.cwd()
            return run_together(ray, function, arguments, workers, request, self.retries, storage)


@final
@dataclass(frozen=True)
class _Sent:
    """A task under way."""

    name: str
    packed: bytes
    attempts: int


@final
class _Flight:
    """Tasks under way, never more than a small multiple of those that have room."""

    def __init__(self, ray: Any, request: Request, retries: int) -> None:
        self.ray, self.request, self.retries = ray, request, retries
        self.sent: dict[Any, _Sent] = {}
        threads = max(1, int(request.cpus))
        # Put once: it is the same for every task.
        self.around = ray.put(Surroundings(threads, gpus=request.gpus > 0))
        # Attempts are counted here: Ray would start tasks that want for memory again for ever.
        options = {"num_cpus": request.cpus, "num_gpus": request.gpus, "max_retries": 0}
        self.function = ray.remote(**options)(perform_in_worker)
        self.room, self.counted, self.had_room = 0, -math.inf, time.monotonic()

    def outcomes(self, tasks: Iterator[Task]) -> Iterator[Outcome]:
        """Send tasks while there is room; give what comes back."""
        self._count_room()
        if not self.room:
            raise ValueError(self.request.refusal(living(self.ray)))
        more = True
        while more or self.sent:
            while more and len(self.sent) < _AHEAD * self.room:
                task = next(tasks, None)
                if task is None:
                    more = False
                    continue
                try:
                    # Packed here: what cannot be packed is this task's failure, and no error of the
                    # engine.
                    packed = self.ray.cloudpickle.dumps((task.function, task.arguments))
                except Exception as error:
                    yield failed(task.name, error, attempts=0)
                else:
                    self._send(_Sent(task.name, packed, 1))
            # One at a time: whoever is given an outcome may take long over it.
            for reference in self._wait():
                if (outcome := self._received(reference)) is not None:
                    yield outcome
            self._count_room()

    def _wait(self) -> list[Any]:
        """Wait for a task that is done; return none after a while."""
        if not self.sent:
            time.sleep(0.0 if self.room else _LOOK)
            return []
        # Ray tells of dead nodes on standard output, where a program's results go.
        with redirect_stdout(sys.stderr):
            done, _ = self.ray.wait(list(self.sent), timeout=_LOOK)
        return list(done)

    def _send(self, task: _Sent) -> None:
        # Tasks are not given their names in Ray, which would count by them and keep them for ever.
        reference = self.function.remote(task.name, task.packed, self.around, task.attempts)
        self.sent[reference] = task

    def _received(self, reference: Any) -> Outcome | None:
        """The outcome that came back, or None if the task is on its way again."""
        errors, task = self.ray.exceptions, self.sent.pop(reference)
        # What died with a worker or a node may well succeed elsewhere; what raised would not.
        died = (
            errors.WorkerCrashedError, errors.NodeDiedError, errors.LocalRayletDiedError,
            errors.OutOfMemoryError, errors.ObjectLostError,
        )  # fmt: skip
        try:
            outcome: Outcome = self.ray.get(reference)
            return outcome
        except errors.RayTaskError as error:
            return failed(task.name, error.cause or error, task.attempts)
        except errors.RayError as error:
            if not isinstance(error, died) or task.attempts > self.retries:
                return failed(task.name, error, task.attempts)
            self._send(_Sent(task.name, task.packed, task.attempts + 1))
            return None

    def _count_room(self) -> None:
        """Count the tasks that fit on the cluster's nodes, now and then.

        Raises:
            TimeoutError: If none has fitted for a while.
        """
        now = time.monotonic()
        if now - self.counted < _LOOK:
            return
        machines = living(self.ray)
        self.room, self.counted = self.request.slots(machines), now
        if self.room:
            self.had_room = now
        elif now - self.had_room > _HOMELESS:
            raise TimeoutError(f"nodes were lost: {self.request.refusal(machines)}")

    def cancel(self) -> None:
        """Cancel the tasks under way: as ctrl-C would at first, then by force."""
        left = list(self.sent)
        self.sent.clear()
        for reference in left:
            self.ray.cancel(reference)
        if left:
            # A task that may end by itself frees its lock and keeps what it has done so far.
            _, left = self.ray.wait(left, num_returns=len(left), timeout=_GENTLE)
        for reference in left:
            self.ray.cancel(reference, force=True)
