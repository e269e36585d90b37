"""DataTrees of named arrays in ArviZ's schema, and netCDF files of them."""

import importlib.metadata
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ppl_vae.files import not_a_file, require_content, write_atomically

if TYPE_CHECKING:
    import xarray as xr

Variable = tuple[Sequence[str], NDArray[Any]]
"""Dimension names and values."""

Attribute = str | int | float
"""Values that netCDF can keep as an attribute."""

TreeGroups = dict[str, dict[str, Variable]]


def tree_of(
    groups: TreeGroups,
    attrs: Mapping[str, Attribute],
    coords: Mapping[str, Sequence[str | int | float]],
) -> "xr.DataTree":
    """A tree of groups; dimensions without coordinates in ``coords`` count from 0.

    Every group carries all attributes, since it is often cut out of the tree. None holds a time:
    the same inputs give the same file.
    """
    # Imported with the first tree: training makes results without one. This one brings matplotlib
    # along, which whoever only reads a tree has no use for.
    import xarray as xr
    from arviz_base import dict_to_dataset

    attrs = {**attrs, **_versions()}
    tree = xr.DataTree(xr.Dataset(attrs=attrs))
    for group, variables in groups.items():
        # Not from_dict: there a variable's name fixes its dimensions in all groups at once.
        dataset = dict_to_dataset(
            {name: values for name, (_, values) in variables.items()},
            dims={name: list(dims) for name, (dims, _) in variables.items()},
            coords=dict(coords),
            sample_dims=[],
            index_origin=0,
            check_conventions=False,
        )
        dataset.attrs = attrs
        tree[group] = xr.DataTree(dataset)
    return tree


def _versions() -> dict[str, str]:
    return {
        "inference_library": "ppl_vae",
        "inference_library_version": importlib.metadata.version("ppl_vae"),
        "torch_version": importlib.metadata.version("torch"),
        "pyro_version": importlib.metadata.version("pyro-ppl"),
    }


def joined(trees: "Iterable[xr.DataTree]", attrs: Mapping[str, Attribute]) -> "xr.DataTree":
    """One tree with the groups of all; each keeps its attributes, the root gets those given.

    Raises:
        ValueError: If two trees have a group of one name.
    """
    result = tree_of({}, attrs, {})
    for tree in trees:
        for name, group in tree.children.items():
            if name in result.children:
                raise ValueError(f"two trees have a group {name!r}: rename one before joining.")
            # A node of a tree has one parent: without a copy it would leave the tree it came from.
            result[name] = group.copy()
    return result


def names_of(what: str, names: Sequence[Any] | None, count: int) -> Sequence[Any]:
    """Check that there are as many names as needed; 0, 1, ... where none are given."""
    if names is not None and len(names) != count:
        raise ValueError(f"{what} must name {count}, got {len(names)} names.")
    return range(count) if names is None else names


def numpy_of(values: Tensor) -> NDArray[Any]:
    """Convert to an array of a type that netCDF has: half precision becomes single."""
    values = values.detach().cpu()
    # NumPy has no bfloat16, and netCDF no half precision.
    half = values.is_floating_point() and values.element_size() < 4
    array: NDArray[Any] = (values.float() if half else values).numpy()
    return array


def observed_of(x: Tensor) -> Variable:
    """Convert data to a variable of dimensions (datum, feature)."""
    return ["datum", *dimensions_of("feature", x.dim() - 1)], numpy_of(x)


def dimensions_of(name: str, count: int) -> list[str]:
    """Names of ``count`` dimensions."""
    return [name] if count == 1 else [f"{name}_{i}" for i in range(count)]


def rows_to_variables(
    rows: Sequence[Mapping[str, Any]],
) -> tuple[dict[str, Variable], dict[str, Sequence[Any]]]:
    """The columns of numbers of a table, and the names of its rows as coordinates.

    The first entry of each row is its name; the dimension has the name of that column.
    """
    if not rows:
        return {}, {}
    dimension, *columns = rows[0]
    named = {name: [row[name] for row in rows] for name in columns}
    numbers = {
        name: ([dimension], np.array(values))
        for name, values in named.items()
        if all(isinstance(value, int | float) for value in values)
    }
    return dict(numbers), {dimension: [row[dimension] for row in rows]}


def save_netcdf(tree: "xr.DataTree", path: Path | str) -> None:
    """Write a tree to a netCDF-4 file; on failure an earlier file at ``path`` stays whole.

    Raises:
        OSError: If the file cannot be written.
    """
    write_atomically(Path(path), netcdf_bytes(tree))


def netcdf_bytes(tree: "xr.DataTree") -> bytes:
    """The content of a netCDF-4 file."""
    return bytes(tree.to_netcdf(engine="h5netcdf"))


def load_netcdf(path: Path | str) -> "xr.DataTree":
    """Read a tree from a netCDF-4 file into memory.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no netCDF-4 file, or a part of one.
    """
    import xarray as xr

    if not Path(path).is_file():
        raise not_a_file(Path(path), f"no file at {path}: write one with save_netcdf.")
    # A file of a few kilobytes may stand for more than fits into memory: look before reading.
    with _reading(path):
        size = _declared_bytes(Path(path))
    require_content(Path(path), size)
    with _reading(path):
        return xr.load_datatree(path, engine="h5netcdf")


@contextmanager
def _reading(path: Path | str) -> Iterator[None]:
    """Raise what goes wrong in reading a file as an error that names it."""
    try:
        yield
    except PermissionError:
        raise
    # HDF5 and its readers raise whatever they come upon in a damaged file.
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} is not a whole netCDF-4 file: {reason}") from error


def _declared_bytes(path: Path) -> int:
    """Bytes of all variables of a file by their shapes, whether they are in it or not."""
    import h5py

    sizes: list[int] = []

    def add(_name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset):
            # By declared shapes: compressed or unwritten values take next to nothing in the file.
            sizes.append(math.prod(node.shape or ()) * max(node.dtype.itemsize, 1))

    with h5py.File(path, "r") as file:
        file.visititems(add)
    return sum(sizes)
