"""The same rows in every form that people hold them in: one result, or one line that mends it."""

import warnings

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    TensorDataset,
    WeightedRandomSampler,
)

import ppl_vae as pv

FEATURES = 6
X = (torch.rand(60, FEATURES, generator=torch.Generator().manual_seed(0)) > 0.5).float()
GREY = X * 0.1


def make_vae():
    torch.manual_seed(0)
    decoder = pv.BernoulliDecoder(pv.MLP(2, [4], FEATURES))
    return pv.VAE(
        pv.StandardNormalPrior(2), decoder, pv.DiagonalNormalEncoder(pv.MLP(FEATURES, [4], 4))
    )  # fmt: skip


def fitted(x, vae=None, **kwargs):
    vae = vae or make_vae()
    kwargs = {"epochs": 1, "progress": False, "device": "cpu"} | kwargs
    pv.fit(vae.model, vae.guide, pv.ELBO(), x, **kwargs)
    return torch.cat([value.detach().flatten() for value in vae.parameters()])


def evaluated(x):
    vae = make_vae()
    return pv.ImportanceSampling(10)(vae.model, vae.guide, x).log_prob


DOORS = {"train": fitted, "x": evaluated}
EXPECTED = {name: door(X) for name, door in DOORS.items()}


class Items(Dataset):
    """A data set of map style."""

    def __init__(self, x, paired=False, noise=0.0):
        self.x, self.paired, self.noise = x, paired, noise

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        x = self.x[i] + self.noise * torch.rand(()) if self.noise else self.x[i]
        return (x, i) if self.paired else x


class Stream(IterableDataset):
    """A data set that gives its items one after another."""

    def __init__(self, x, paired=False):
        self.x, self.paired = x, paired

    def __iter__(self):
        return iter(zip(self.x, self.x[:, 0], strict=True) if self.paired else self.x)


class Words(Dataset):
    def __len__(self):
        return 3

    def __getitem__(self, i):
        return "abc"[i]


TAKEN = {
    "float32": X,
    "float64": X.double(),
    "float16": X.half(),
    "bool": X.bool(),
    "int64": X.long(),
    "uint8": X.to(torch.uint8),
    "numpy": X.numpy(),
    "numpy in double precision": X.double().numpy(),
    "numpy of whole numbers": X.long().numpy(),
    "data frame": pd.DataFrame(X.numpy()),
    "data frame of whole numbers": pd.DataFrame(X.long().numpy()),
    "tensor data set": TensorDataset(X),
    "data set": Items(X),
    "data set of pairs": Items(X, paired=True),
    "tensors with labels": TensorDataset(X, X[:, 0]),
    "loader": DataLoader(TensorDataset(X), batch_size=20, shuffle=True),
    "loader with workers": DataLoader(Items(X.double()), batch_size=7, num_workers=1),
    "loader of single items": DataLoader(Items(X), batch_size=None),
    "iterable": Stream(X),
    "loader of an iterable": DataLoader(Stream(X, paired=True), batch_size=7),
}
REFUSED = {
    "loader that draws": (
        DataLoader(Items(X), sampler=WeightedRandomSampler([1.0] * len(X), 60)),
        ValueError,
        "{0} is a DataLoader with a WeightedRandomSampler",
    ),
    "items that change": (
        Items(X, noise=1.0),
        ValueError,
        "{0} gives another item 0 each time it is asked",
    ),
    "items of words": (["a", "b"], TypeError, "{0} is a list"),
    "data set of words": (Words(), TypeError, "{0} has items of str"),
    "empty iterable": (Stream(X[:0]), ValueError, "{0} holds no data"),
    "data set": (pv.load_dataset(X), TypeError, "{0} is a whole data set .*: give data.train"),
    "path": ("rows.csv", TypeError, "{0} is a str: give a tensor, rows first"),
    "table with words": (
        pd.DataFrame({"a": [1.0, 2.0], "b": ["x", "y"]}),
        ValueError,
        r"{0} has 1 columns that are no numbers \(b\)",
    ),
    "one datum": (
        X[0],
        ValueError,
        r"{0} has 1 dimension\(s\), the model's data have 2, rows first: give {0}\[None\]",
    ),
    "one datum in double precision": (X[0].double(), ValueError, r"give {0}\[None\] for one datum"),
    "one number": (X[0, 0], ValueError, "{0} is one number"),
    "images": (
        X.reshape(-1, 1, 2, 3),
        ValueError,
        r"a layer of 6 inputs was given 3 \(shape \(\d+, 1, 2, 3\)\).*x\.flatten\(1\)",
    ),
    "no rows": (X[:0], ValueError, "{0} holds no data: give at least one row.$"),
    "no columns": (X[:, :0], ValueError, r"{0} has rows without values \(shape \(.*, 0\)\): give"),
    "too fine for the model": (
        torch.full((60, FEATURES), 0.1, dtype=torch.float64),
        ValueError,
        r"{0} is float64 and the model float32, which would round it: give a model of that "
        r"precision \(module\.to\(torch\.float64\)\), or, if what is lost does not matter, "
        r"{0}\.float\(\)",
    ),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("form", TAKEN)
def test_what_loses_nothing_is_taken(form, door):
    assert torch.equal(DOORS[door](TAKEN[form]), EXPECTED[door])


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("form", REFUSED)
def test_the_rest_is_told_in_one_line(form, door):
    given, kind, message = REFUSED[form]
    with pytest.raises(kind, match=message.format(door)) as error:
        DOORS[door](given)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("form", TAKEN)
def test_validation_data_are_taken_alike(form):
    assert torch.equal(fitted(X, valid=TAKEN[form]), fitted(X, valid=X))


@pytest.mark.parametrize(
    ("valid", "message"),
    [
        (X[0], r"valid has rows of shape \(\), train of \(6,\)"),
        (X.reshape(-1, 1, 2, 3), r"valid has rows of shape \(1, 2, 3\), train of \(6,\)"),
        (torch.full((60, FEATURES), 0.1, dtype=torch.float64), "valid is float64 and the model"),
    ],
)
def test_validation_data_are_named(valid, message):
    with pytest.raises(ValueError, match=message):
        fitted(X, valid=valid)


def test_a_model_in_double_precision_takes_single():
    vae = make_vae().double()
    assert torch.equal(fitted(X, vae), fitted(X.double(), make_vae().double()))


def test_nothing_is_changed_by_data_that_are_refused():
    vae = make_vae()
    before = [value.clone() for value in vae.parameters()]
    with pytest.raises(ValueError, match="which would round"):
        fitted(GREY.double() / 3, vae)
    assert all(map(torch.equal, before, vae.parameters()))


@pytest.mark.parametrize("form", [torch.Tensor.double, torch.Tensor.numpy, lambda x: x[:, 0]])
def test_holes_are_named_whatever_holds_them(form):
    x = X.clone()
    x[3, 0] = np.nan
    with pytest.raises(ValueError, match=r"train has 1 rows with NaN .* at row 3"):
        fitted(form(x))


class Scalars(nn.Module):
    """One number a datum, without an event dimension: z ~ N(0, 1), x ~ N(z + b, 1)."""

    def __init__(self):
        super().__init__()
        self.b = nn.Parameter(torch.zeros(()))

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z + self.b, 1.0), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 0.7))


def test_rows_of_one_number_are_data():
    fitted(X[:, 0], scalars := Scalars())
    assert len(pv.ImportanceSampling(10)(scalars.model, scalars.guide, X[:, 0])) == len(X)


class Twice(nn.Module):
    """Two independent measurements of each datum, in a plate left of the data plate."""

    def __init__(self):
        super().__init__()
        self.b = nn.Parameter(torch.zeros(()))

    def model(self, x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            with pyro.plate("measurement", 2, dim=-2):
                pyro.sample("x", dist.Normal(z + self.b, 1.0), obs=x.mT)

    def guide(self, x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x.mean(1) / 2, 0.7))


def test_plates_are_found_by_running_once():
    fitted(X[:, :2], twice := Twice(), valid=X[:, :2])
    assert twice.b.item() != 0
    assert len(pv.ImportanceSampling(10)(twice.model, twice.guide, X[:, :2])) == len(X)


@pytest.mark.parametrize("name", ["gpu", "cuda:99"])
def test_a_device_is_named_as_python_names_it(name):
    for call in (
        lambda: fitted(X, device=name),
        lambda: pv.ImportanceSampling(10)(make_vae().model, make_vae().guide, X, device=name),
    ):
        with pytest.raises(ValueError, match=r"device '(gpu|cuda:99)'.*auto") as error:
            call()
        assert "--" not in str(error.value)


def test_no_warning_of_arrays_that_cannot_be_written_to():
    array = X.numpy().copy()
    array.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(evaluated(array), EXPECTED["x"])
