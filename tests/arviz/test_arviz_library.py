"""What ``import arviz as az`` makes of the files: 0.23 on Python 3.11, 1.x on later ones."""

import arviz as az
import matplotlib.pyplot as plt
import numpy as np
import pytest

from ppl_vae.arviz import particles_to_datatree
from ppl_vae.arviz._draws import GROUPS
from ppl_vae.diagnostics import decompose
from ppl_vae.evidence import ImportanceSampling
from ppl_vae.linear_gaussian import LinearGaussian
from ppl_vae.netcdf import save_netcdf

IS_OLD = int(az.__version__.split(".")[0]) == 0
MODEL = LinearGaussian.random(8, 3, noise_scale=0.8)
VAE, X = MODEL.mean_field_vae(), MODEL.simulate(5)
PROGRAMS = VAE.model, VAE.guide


@pytest.fixture(scope="module")
def tree():
    return particles_to_datatree(*PROGRAMS, X, num_particles=200, resample=True, groups=GROUPS)


@pytest.fixture(scope="module")
def data(tree, tmp_path_factory):
    path = tmp_path_factory.mktemp("arviz") / "draws.nc"
    save_netcdf(tree, path)
    return az.from_netcdf(path)


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


def test_every_group_of_draws_is_read(data, tree):
    groups = data.groups() if IS_OLD else data.children
    assert set(groups) == set(tree.children)
    np.testing.assert_array_equal(data["posterior"]["z"], tree["posterior"]["z"])
    assert data["posterior"].attrs["note"] == tree["posterior"].attrs["note"]


def test_summary_has_the_means_of_the_draws(data, tree):
    table = az.summary(data, round_to="none")
    means = tree["posterior"]["z"].mean(("chain", "draw")).to_numpy().ravel()
    assert list(table.index[:2]) == ["z[0, 0]", "z[0, 1]"]
    np.testing.assert_allclose(table["mean"], means)


@pytest.mark.parametrize("name", ["plot_trace", "plot_forest", "plot_posterior", "plot_ppc"])
def test_figures_are_drawn(name, data):
    later = {"plot_posterior": "plot_dist", "plot_ppc": "plot_ppc_dist"}
    draw = getattr(az, name if IS_OLD else later.get(name, name))
    assert draw(data) is not None


@pytest.mark.parametrize("group", ["evidence", "decomposition"])
def test_groups_of_our_own_are_read(group, tmp_path):
    results = {
        "evidence": lambda: ImportanceSampling(50)(*PROGRAMS, X),
        "decomposition": lambda: decompose(*PROGRAMS, X, num_particles=10),
    }
    tree = results[group]().to_datatree()
    save_netcdf(tree, tmp_path / "result.nc")
    found = az.from_netcdf(tmp_path / "result.nc")[group]
    assert set(found.data_vars) == set(tree[group].data_vars)
    for name, values in tree[group].data_vars.items():
        np.testing.assert_array_equal(found[name], values)


@pytest.mark.skipif(not IS_OLD, reason="ArviZ 1.x has no InferenceData: it takes the tree")
def test_a_tree_becomes_inference_data_without_a_file(tree):
    data = az.InferenceData.from_datatree(tree)
    assert set(data.groups()) == set(tree.children)
    assert len(az.summary(data)) == 15
