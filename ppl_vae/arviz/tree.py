"""A DataTree of groups in ArviZ's schema, from named arrays."""

import importlib.metadata
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from ppl_vae.identity import Identity

Variable = tuple[Sequence[str], NDArray[Any]]
"""Dimension names and values."""

Attribute = str | int | float
"""What netCDF can keep as an attribute."""

Groups = dict[str, dict[str, Variable]]


def tree_of(
    groups: Groups,
    attrs: Mapping[str, Attribute],
    coords: Mapping[str, Sequence[str | int | float]],
) -> xr.DataTree:
    """A tree of groups; dimensions without coordinates in ``coords`` count from 0.

    Every group carries all attributes, since it is often cut out of the tree. None holds a time:
    the same inputs give the same file.
    """
    attrs = {**attrs, **_versions()}
    # Brings matplotlib along, which whoever only reads a tree has no use for.
    from arviz_base import dict_to_dataset

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


def identity_attribute(identity: Identity | None) -> dict[str, Attribute]:
    """What a result was computed from as an attribute ``identity``, in JSON; none if not known."""
    told = None if identity is None else json.dumps(identity.to_dict(), sort_keys=True)
    return {} if told is None else {"identity": told}


def _versions() -> dict[str, str]:
    return {
        "inference_library": "ppl_vae",
        "inference_library_version": importlib.metadata.version("ppl_vae"),
        "torch_version": importlib.metadata.version("torch"),
        "pyro_version": importlib.metadata.version("pyro-ppl"),
    }


def joined(trees: Iterable[xr.DataTree], attrs: Mapping[str, Attribute]) -> xr.DataTree:
    """One tree with the groups of all; each keeps its attributes, the root gets those given.

    Raises:
        ValueError: If two trees have a group of one name.
    """
    whole = tree_of({}, attrs, {})
    for tree in trees:
        for name, group in tree.children.items():
            if name in whole.children:
                raise ValueError(f"two trees have a group {name!r}: rename one before joining.")
            whole[name] = group.copy()
    return whole


def names_of(what: str, names: Sequence[Any] | None, count: int) -> Sequence[Any]:
    """The names given, as many as there should be, or 0, 1, ..."""
    if names is not None and len(names) != count:
        raise ValueError(f"{what} must name {count}, got {len(names)} names.")
    return range(count) if names is None else names


def numpy_of(values: Tensor) -> NDArray[Any]:
    """As an array of a type that netCDF has: half precision becomes single."""
    values = values.detach().cpu()
    half = values.is_floating_point() and values.element_size() < 4
    array: NDArray[Any] = (values.float() if half else values).numpy()
    return array


def observed_of(x: Tensor) -> Variable:
    """Data, (datum, feature)."""
    return ["datum", *dimensions_of("feature", x.dim() - 1)], numpy_of(x)


def dimensions_of(name: str, count: int) -> list[str]:
    """Names of so many dimensions."""
    return [name] if count == 1 else [f"{name}_{i}" for i in range(count)]
