"""One function in several workers of a Ray cluster at once, which talk to each other by torch."""

import signal
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, final

from ppl_vae.engines._cluster import Request, environment, living
from ppl_vae.engines._task import Surroundings, failed, perform_in_worker

_GPUS, _CPUS = "cpu:gloo,cuda:nccl", "gloo"
# Read by Ray Train: it looks after workers twice a second, and waits until they have started, which
# on a busy machine takes longer than its minute; it counts nothing for a dashboard.
_ENVIRONMENT = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "600",
    "RAY_TRAIN_METRICS_ENABLED": "0",
}


@final
class Box:
    """What workers leave for the process that started them: values by rank, errors in order."""

    def __init__(self) -> None:
        self.values: dict[int, Any] = {}
        self.errors: list[bytes] = []

    def add_value(self, rank: int, value: Any) -> None:
        """Keep a worker's value."""
        self.values[rank] = value

    def add_error(self, error: bytes) -> None:
        """Keep an error that a worker raised."""
        self.errors.append(error)

    def contents(self) -> tuple[dict[int, Any], list[bytes]]:
        """All values and errors."""
        return self.values, self.errors


def run_together(
    ray: Any,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    workers: int,
    request: Request,
    retries: int,
    storage: Path | None,
) -> Any:
    """Call ``function(*arguments)`` in as many workers; give the value of the first one.

    Args:
        ray: The library, connected.
        function: Function that a worker can import.
        arguments: Arguments that can be pickled.
        workers: Number of workers.
        request: Resources of each.
        retries: Times that all of them are started again after one has died.
        storage: Folder in which Ray Train may have one of its own for a while; None: a temporary
            one.

    Raises:
        ValueError: If the cluster has no room for all of them.
        ConnectionError: If workers died more often.
        Exception: What a worker raised.
    """
    machines = living(ray)
    if request.slots(machines) < workers:
        raise ValueError(
            f"{workers} workers have no room together: {request.refusal(machines)}"
            if not request.slots(machines)
            else f"{workers} workers of {request.cpus:g} CPUs and {request.gpus:g} GPUs each have "
            f"no room together, {request.slots(machines)} have: give fewer workers, or add nodes."
        )
    train, torch_trainer, torch_config = _require_ray_train()
    box = ray.remote(num_cpus=0)(Box).remote()
    given = {
        "packed": ray.cloudpickle.dumps((_settled, (function, arguments))),
        "around": Surroundings(max(1, int(request.cpus)), gpus=request.gpus > 0),
        "box": box,
    }
    with (
        tempfile.TemporaryDirectory(prefix=".ray-train-", dir=storage) as folder,
        environment(_ENVIRONMENT),
        _interruptible(),
        warnings.catch_warnings(),
    ):
        # Of Ray about itself.
        warnings.simplefilter("ignore")
        trainer = torch_trainer(
            _work,
            train_loop_config=given,
            torch_config=torch_config(backend=_GPUS if request.gpus else _CPUS),
            scaling_config=train.ScalingConfig(
                num_workers=workers,
                use_gpu=request.gpus > 0,
                resources_per_worker={"CPU": request.cpus, "GPU": request.gpus},
            ),
            run_config=train.RunConfig(
                name="workers",
                storage_path=folder,
                failure_config=train.FailureConfig(max_failures=retries),
            ),
        )
        died: Exception | None = None
        try:
            # Ray tells of dead workers on standard output, where a program's results go.
            with redirect_stdout(sys.stderr):
                trainer.fit()
        except train.TrainingFailedError as error:
            died = error
    values, errors = ray.get(box.contents.remote())
    if errors:
        raise ray.cloudpickle.loads(errors[0])
    if died is not None or 0 not in values:
        reason = " ".join(str(died).split())[:300]
        raise ConnectionError(
            f"workers died {retries + 1} times ({reason}): the same command goes on from the last "
            "checkpoint."
        ) from died
    return values[0]


def _require_ray_train() -> tuple[Any, Any, Any]:
    """Ray Train, its trainer for torch, and its configuration.

    Raises:
        ImportError: If a package that it needs is not installed.
    """
    try:
        import ray.train
        from ray.train.torch import TorchConfig, TorchTrainer
    except ImportError as error:
        reason = " ".join(str(error).split())
        raise ImportError(
            f"training by several workers needs Ray Train ({reason}): pip install 'ppl_vae[ray]'."
        ) from error
    return ray.train, TorchTrainer, TorchConfig


def _work(given: dict[str, Any]) -> None:
    """Do one worker's part; runs in Ray Train, which has made torch's process group."""
    import ray
    import torch.distributed as dist

    box = given["box"]
    if ray.get(box.contents.remote())[1]:
        # What a worker raised it would raise again.
        return
    outcome = perform_in_worker("worker", given["packed"], given["around"], 1)
    raised, value = outcome.value or (RuntimeError(outcome.error), None)
    if raised is None:
        ray.get(box.add_value.remote(dist.get_rank(), value))
        return
    if isinstance(raised, ConnectionError):
        # Another worker has died, or left its error in the box before it closed its connections.
        if not ray.get(box.contents.remote())[1]:
            raise raised
        return
    try:
        packed = ray.cloudpickle.dumps(raised)
    # Whatever an exception holds that cannot be sent.
    except Exception:
        packed = ray.cloudpickle.dumps(RuntimeError(failed("worker", raised).error))
    ray.get(box.add_error.remote(packed))
    if "nccl" in dist.get_backend():
        # The others wait on their GPUs, which nothing but their end interrupts.
        raise raised
    dist.destroy_process_group()


def _settled(function: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[Any, Any]:
    """What a function raises, or None and its value."""
    try:
        return None, function(*arguments)
    except Exception as error:
        error.__cause__ = error.__context__ = error.__traceback__ = None
        return error, None


@contextmanager
def _interruptible() -> Iterator[None]:
    """Make ctrl-C an interruption, for which Ray Train has a handler that exits with success."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as end:
        raise KeyboardInterrupt from end
    finally:
        signal.signal(signal.SIGINT, handler)
