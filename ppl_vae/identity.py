"""Identity of a number: parameters, data, settings and seed that it was computed from."""

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache
from importlib import metadata
from typing import Any, final

import torch
from torch import Tensor

_PACKAGES = ("ppl_vae", "torch", "pyro-ppl")
_RECORDED = ("versions", "densities", "measure")
"""Fields outside of the key: another version gives the same number but for rounding."""
MEASURES = ("probability", "density", "both")
"""Answers to what p(x) is, for discrete data, continuous data and data that are both."""
_HASHED_ROWS = 4096
"""Rows hashed at once."""
_SAME = 1e-3
"""Difference of log-densities that is rounding, absolute and relative."""


def hash_tensors(named: Mapping[str, Tensor]) -> str:
    """SHA-256, in hex, of names, types, shapes and bytes, in the order of the names.

    Args:
        named: Name to tensor, on any device.
    """
    digest = hashlib.sha256()
    # Sorted, so that the order in which modules were registered does not matter.
    for name in sorted(named):
        content = named[name]
        digest.update(_heading(name, content.dtype, content.shape))
        digest.update(bytes_of(content))
    return digest.hexdigest()


def hash_rows(x: Tensor) -> str:
    """SHA-256, in hex, of data: type, shape and bytes.

    Args:
        x: Rows first, shape ``(num_data, *event)``.
    """
    digest = rows_digest(x.dtype, x.shape)
    # Some at a time: rows of another order in memory, or on a GPU, are copied to be hashed.
    for part in x.split(_HASHED_ROWS):
        digest.update(bytes_of(part))
    return digest.hexdigest()


def rows_digest(dtype: torch.dtype, shape: Sequence[int]) -> "hashlib._Hash":
    """A SHA-256 that gives :func:`hash_rows` of rows, once it is updated with their bytes."""
    return hashlib.sha256(_heading("x", dtype, shape))


def bytes_of(x: Tensor) -> memoryview:
    """The bytes of a tensor, in the order of its elements."""
    # A view: NumPy has no bfloat16, and a copy would double the memory.
    content: memoryview = x.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
    return content


def _heading(name: str, dtype: torch.dtype, shape: Sequence[int]) -> bytes:
    # Zero bytes between the fields: no two lists of names and shapes give the same bytes.
    return f"{name}\0{dtype}\0{tuple(shape)}\0".encode()


def hash_bytes(content: bytes) -> str:
    """SHA-256, in hex, of a file's content."""
    return hashlib.sha256(content).hexdigest()


def hash_values(values: Any) -> str:
    """SHA-256, in hex, of plain values, as JSON has them."""
    # Keys in order, so that equal mappings have one hash.
    return hash_bytes(json.dumps(values, sort_keys=True).encode())


@cache
def installed_versions() -> dict[str, str]:
    """Versions of this package, torch and Pyro, as installed."""
    return {name: _installed(name) for name in _PACKAGES}


def _installed(name: str) -> str:
    """The version of a package; a source tree on the path has none."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


@final
@dataclass(frozen=True)
class Source:
    """Where rows came from, in words; rows given in memory have none of these.

    Attributes:
        dataset: Name of the data set, or the base name of a file.
        split: ``train``, ``valid``, ``test``, or None for rows that were not split.
        limit: At most this many rows of the split were taken; None: all.
    """

    dataset: str | None = None
    split: str | None = None
    limit: int | None = None

    def __str__(self) -> str:
        limit = None if self.limit is None else f"limit {self.limit}"
        return ", ".join(filter(None, [self.dataset, self.split, limit])) or "rows in memory"


@final
@dataclass(frozen=True)
class Identity:
    """Record of what a number was computed from.

    Two numbers with equal :attr:`key` are the same number, up to rounding between versions.

    Attributes:
        parameters: Hash of the parameters and buffers that were evaluated.
        rows: Hash of the data, in their order.
        settings: The estimator or the diagnosis with all its settings, in words.
        seed: Seed of the draws; None where they came from the caller's random state.
        chunk_rows: Particles times data computed at once. The streams of random numbers follow from
            it and the seed; None where no draws are cut into chunks.
        device: Type of the device, such as "cpu".
        source: Source of the rows.
        versions: Versions of this package, torch and Pyro. Recorded, not compared.
        densities: Site to its log-density at one draw of the first datum, in nats: programs whose
            code was changed have the same tensors and others. Compared where both are known.
        measure: What p(x) is: ``"probability"``, ``"density"``, or ``"both"`` of data that are
            partly discrete; None where it is not known. Recorded: two numbers of different
            measures have no difference that means anything.
    """

    parameters: str
    rows: str
    settings: str
    seed: int | None = None
    chunk_rows: int | None = None
    device: str = "cpu"
    source: Source = field(default_factory=Source)
    versions: Mapping[str, str] = field(default_factory=installed_versions)
    densities: Mapping[str, float] = field(default_factory=dict)
    measure: str | None = None

    @property
    def key(self) -> str:
        """Hash of everything but the versions, in hex; names files."""
        content = {name: value for name, value in self.to_dict().items() if name not in _RECORDED}
        return hash_values(content)

    def differences(self, other: "Identity", *names: str) -> list[str]:
        """The entries in which two identities differ, in words; none if they are of one number.

        Args:
            other: What is compared with.
            names: Fields to compare; all but the versions if none is named.
        """
        compared = names or [f.name for f in fields(self) if f.name not in _RECORDED]
        pairs = [(name, getattr(self, name), getattr(other, name)) for name in compared]
        differing = [f"{name} {_short(a)} and {_short(b)}" for name, a, b in pairs if a != b]
        ours, theirs = self.densities, other.densities
        # With other tensors or data, densities differ whether or not the programs do.
        if differing or names or not ours or not theirs:
            return differing
        sites = sorted(set(ours) | set(theirs))
        values = [(name, ours.get(name, math.nan), theirs.get(name, math.nan)) for name in sites]
        return [
            f"log-density of {name} {a:.6g} and {b:.6g} nats, by programs that were changed"
            for name, a, b in values
            if not math.isclose(a, b, rel_tol=_SAME, abs_tol=_SAME)
        ]

    def require_same(self, other: "Identity", where: str) -> None:
        """Check that a file's number is the one that is wanted.

        Args:
            other: What the file says.
            where: The file, for the message.

        Raises:
            ValueError: If it is of something else; names what differs.
        """
        differing = self.differences(other)
        if differing:
            raise ValueError(
                f"{where} is of something else ({'; '.join(differing)}, expected first): "
                "delete it, or name another file."
            )

    def of_parts(self, parts: Iterable["Identity | None"]) -> "Identity":
        """A copy with the parts' ``chunk_rows``; None where these differ or are not known.

        Args:
            parts: Identities of the numbers that this one is put together from.
        """
        # Streams of random numbers follow from it, so that one number must hold for all parts.
        counts = {None if part is None else part.chunk_rows for part in parts}
        return replace(self, chunk_rows=counts.pop() if len(counts) == 1 else None)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            **asdict(self), "versions": dict(self.versions), "densities": dict(self.densities)
        }  # fmt: skip

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Identity":
        """Read what :meth:`to_dict` gave.

        Raises:
            ValueError: If entries are missing, unknown or of another type.
        """
        try:
            source = Source(**values["source"])
            identity = cls(**{**values, "source": source, "versions": dict(values["versions"])})
        except (TypeError, KeyError, ValueError) as error:
            raise ValueError(f"no complete identity of a number: {error}.") from error
        words = (identity.parameters, identity.rows, identity.settings, identity.device)
        numbers = (identity.seed, identity.chunk_rows)
        if (
            not all(isinstance(word, str) for word in words)
            # Not isinstance: a file's true is no seed of 1.
            or not all(number is None or type(number) is int for number in numbers)
            or identity.measure not in (None, *MEASURES)
            or not all(isinstance(value, float) for value in dict(identity.densities).values())
        ):
            raise ValueError("no complete identity of a number: an entry has another type.")
        return identity


class _Stated(BaseException):
    """An identity on its way to :func:`identity_of`; no Exception, so that nothing catches it."""

    def __init__(self, identity: Identity) -> None:
        super().__init__()
        self.identity = identity


_HERE = "where it would run here"
_DEVICE: ContextVar[str | None] = ContextVar("device of the wanted identity", default=None)
"""Type of device that an identity is wanted for, or `_HERE`; None: none is wanted."""


def identity_of(computation: Callable[[], Any], device: str | None = None) -> Identity:
    """Identity that a computation would state, before anything is computed.

    The computation starts, and ends where it states its identity: every estimator and every
    diagnosis does, once programs and data are checked. So a stored number is looked for by the
    identity that it was stored under, and there is no second way to make one.

    Args:
        computation: Called without arguments.
        device: Type of device to state it for, such as "cuda", where the computation will run on
            another machine; None: where it would run here.

    Raises:
        ValueError: If the computation ends without stating one, or as the computation does.
    """
    # One computation may ask for the identity of another: the device asked for outside holds
    # inside.
    token = _DEVICE.set(device or _DEVICE.get() or _HERE)
    try:
        computation()
    except _Stated as stated:
        return stated.identity
    finally:
        _DEVICE.reset(token)
    raise ValueError(
        "the computation states no identity, so that its result cannot be kept: open the programs "
        "and the data with ppl_vae.particles.evaluation, and call identity of what that gives."
    )


def asked_device() -> str | None:
    """Type of device that an identity is wanted for, where it is not the one at hand."""
    device = _DEVICE.get()
    return None if device == _HERE else device


def state(identity: Identity) -> Identity:
    """Give an identity to :func:`identity_of`, which ends the computation; else go on.

    Args:
        identity: Identity of what is computed.
    """
    if _DEVICE.get() is not None:
        # It unwinds every frame between here and identity_of, with their context managers closed.
        raise _Stated(identity)
    return identity


def require_same_rows(named: Mapping[str, Identity | None]) -> None:
    """Check that numbers are of the same data, in the same order, so that they may be paired.

    Args:
        named: What a number is called, to what it was computed from; None, where that is not
            known, is taken on trust.

    Raises:
        ValueError: If two are of other rows; names both and where their rows came from.
    """
    known = [(name, identity) for name, identity in named.items() if identity is not None]
    for name, identity in known[1:]:
        first_name, first = known[0]
        if identity.rows != first.rows:
            raise ValueError(
                f"{first_name} and {name} are of other data ({first.source}, hash "
                f"{first.rows[:12]}; {identity.source}, hash {identity.rows[:12]}), so that they "
                "cannot be paired: evaluate both on the same rows."
            )


def share_measure(a: str | None, b: str | None) -> bool:
    """Whether two numbers are of one measure, as far as is known."""
    return a is None or b is None or a == b


def _short(value: Any) -> str:
    """The first digits of a hash; any other value as it is."""
    text = str(value)
    return text[:12] if len(text) == 64 and " " not in text else text
