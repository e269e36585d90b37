"""A connection to a Ray cluster, and how many tasks have room on it."""

import importlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, final

_Resources = dict[str, float]
_CLIENT = "ray://"
_HERE = "127.0.0.1"
_ANSWER = 10.0
"""Seconds that a cluster has to answer."""
# Read by Ray while it starts: no statistics to anybody, and no GPU for tasks that ask for none.
_ENVIRONMENT = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1"}


def require_ray() -> Any:
    """The library Ray.

    Raises:
        ImportError: If it is not installed.
    """
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise ImportError(
            f"the engine ray needs Ray ({error}): pip install 'ppl_vae[ray]'."
        ) from error


@contextmanager
def connected(ray: Any, address: str | None) -> Iterator[None]:
    """Connect to the cluster at ``address``, or start one here and stop it afterwards.

    Where this process is connected already, that connection is used and left.

    Raises:
        ConnectionError: If there is no cluster at the address.
        ValueError: If this process is connected to another one.
    """
    if ray.is_initialized():
        _require_same(address, ray.get_runtime_context().gcs_address)
        yield
        return
    # Before the connection, in which Ray sets a handler of its own.
    handler = signal.getsignal(signal.SIGTERM)
    _connect(ray, address)
    try:
        yield
    finally:
        ray.shutdown()
        # Python sets signal handlers in the main thread only.
        if threading.current_thread() is threading.main_thread():
            # Ray puts its own in place of the caller's.
            signal.signal(signal.SIGTERM, handler or signal.SIG_DFL)


def _connect(ray: Any, address: str | None) -> None:
    local = {"include_dashboard": False, "_node_ip_address": _HERE} if address is None else {}
    around = _loopback(ray) if address is None else nullcontext()
    try:
        _require_answer(address)
        with environment(_ENVIRONMENT), around:
            ray.init(
                address or "local", log_to_driver=False, logging_level=logging.CRITICAL, **local
            )
    # A cluster that starts too slowly is a bare Exception.
    except Exception as error:
        what = "could be started here" if address is None else f"answers at {address}"
        raise ConnectionError(
            f"no Ray cluster {what} ({' '.join(str(error).split())[:300]}): start one with ray "
            "start --head and give its address as host:port, or none to use this machine alone."
        ) from error


def _require_answer(address: str | None) -> None:
    """Check that the address answers, since Ray itself tries for minutes.

    Raises:
        OSError: If nobody is.
    """
    if address not in (None, "auto"):
        host, _, port = address.rpartition(":")
        socket.create_connection((host.strip("[]"), int(port)), _ANSWER).close()


def _require_same(address: str | None, there: str) -> None:
    if address not in (None, "auto", there):
        raise ValueError(
            f"this process is connected to the Ray cluster at {there}, not at {address}: call "
            "ray.shutdown() first, or give no address."
        )


def require_address(address: str | None) -> None:
    """Check an address; that of Ray's client, outside of a cluster, is none.

    Raises:
        ValueError: If it is neither ``host:port`` nor ``auto``.
    """
    if address in (None, "auto"):
        return
    if address.startswith(_CLIENT):
        raise ValueError(
            f"address {address!r} is of Ray's client, which is outside of the cluster and its file "
            "system: start on a node of the cluster, with host:port or auto."
        )
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError(f"the address of a Ray cluster is host:port or auto, got {address!r}.")


def living(ray: Any) -> list[_Resources]:
    """Total resources of each node of the cluster that is alive."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


@final
@dataclass(frozen=True)
class Request:
    """Resources that a task asks of a node."""

    cpus: float
    gpus: float

    def slots(self, machines: list[_Resources]) -> int:
        """Tasks that fit on the nodes at once."""
        return sum(map(self._fit, machines))

    def _fit(self, resources: _Resources) -> int:
        asked = (("CPU", self.cpus), ("GPU", self.gpus))
        # Ray counts in ten thousandths: a quotient such as 0.3 / 0.1 must not round down to 2.
        return min(int((resources.get(name, 0.0) + 1e-4) / n) for name, n in asked if n > 0)

    def refusal(self, machines: list[_Resources]) -> str:
        """Explain in one line why no node has room."""
        sizes = {f"{r.get('CPU', 0):g} CPUs and {r.get('GPU', 0):g} GPUs" for r in machines}
        return (
            f"a task asks for {self.cpus:g} CPUs and {self.gpus:g} GPUs, and no node of the Ray "
            f"cluster has as many (there are nodes of {'; '.join(sorted(sizes)) or 'nothing'}): "
            "ask for less with cpus and gpus, or add a node."
        )


@contextmanager
def _loopback(ray: Any) -> Iterator[None]:
    """Let a cluster that starts inside listen on 127.0.0.1 only, not on every interface.

    Ray replaces that address by one that other machines reach, unless it has no clusters of several
    machines, as on macOS and Windows.
    """
    constants = ray._private.ray_constants
    before = constants.ENABLE_RAY_CLUSTER
    # The constant is read at import, the variable by processes that Ray starts: both are set.
    constants.ENABLE_RAY_CLUSTER = False
    try:
        with environment({constants.ENABLE_RAY_CLUSTERS_ENV_VAR: "0"}):
            yield
    finally:
        constants.ENABLE_RAY_CLUSTER = before


@contextmanager
def environment(values: dict[str, str]) -> Iterator[None]:
    # Put back afterwards: the caller's environment, and programs started later, are not ours.
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
