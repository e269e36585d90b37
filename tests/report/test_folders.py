"""Pictures are looked at by people; here, that they are pictures and show what they should."""

import io

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from ppl_vae.plots import plot_columns, plot_images, png_of
from ppl_vae.report import _folders as folders
from ppl_vae.report import write_sample_figures
from ppl_vae.runs import RunConfig, train_run
from ppl_vae.training import EpochRecord, History, plot_histories


def pixels(figure):
    return np.asarray(Image.open(io.BytesIO(png_of(figure))).convert("L"), dtype=float)


def test_images_are_drawn_dark_where_values_are_high():
    shape = (4, 4)
    white, black = torch.zeros(3, 16), torch.ones(3, 16)
    assert pixels(plot_images([white], shape)).mean() > 220
    assert pixels(plot_images([black], shape)).mean() < 120


def test_profiles_and_curves_draw_something():
    rows = torch.randn(5, 3)
    assert pixels(plot_columns({"a": rows, "b": rows})).std() > 1
    records = [EpochRecord(i, -float(9 - i), -1.0, {"z": 1.0}, 1e-3, 0.1) for i in range(1, 6)]
    assert pixels(plot_histories({"elbo": [History(records)]})).std() > 1


def test_columns_of_a_table_have_their_names():
    data = torch.tensor([[1.0, 2000.0], [3.0, float("nan")], [2.0, 4000.0]])
    (ax,) = plot_columns({"data": data, "samples": data + 1}, ["age", "income"]).axes
    assert [text.get_text() for text in ax.get_yticklabels()] == [
        "age (2 \N{PLUS-MINUS SIGN} 0.82)", "income (3000 \N{PLUS-MINUS SIGN} 1e+03)"
    ]  # fmt: skip
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["data", "samples"]
    (medians, _) = ax.get_lines()
    np.testing.assert_allclose(medians.get_xdata(), 0, atol=1e-6)


def test_sample_figures_of_a_table_have_its_units_and_names(tmp_path, monkeypatch):
    shown = []

    def plot(groups, names):
        shown.append((groups, names))
        return plot_columns(groups, names)

    monkeypatch.setattr(folders, "plot_columns", plot)
    rng = np.random.default_rng(0)
    seconds = 1_700_000_000 + 10 * rng.random(40)
    table = pd.DataFrame({"seconds": seconds, "speed": rng.normal(size=40)})
    table.to_csv(tmp_path / "t.csv", index=False)
    config = RunConfig.of(data=str(tmp_path / "t.csv"), hidden=(8,), latent=2, epochs=1)
    run, _ = train_run(config, tmp_path / "run", progress=False)
    write_sample_figures(run, count=4)
    assert len(shown) == 2
    for groups, names in shown:
        assert names == ("seconds", "speed")
        for rows in groups.values():
            assert abs(rows[:, 0] - 1_700_000_005).max() < 100
            assert abs(rows[:, 1]).max() < 10


@pytest.mark.parametrize("likelihood", ["bernoulli", "normal"])
def test_sample_figures_of_a_run(tmp_path, likelihood):
    config = RunConfig.of(likelihood=likelihood, hidden=(8,), latent=2, epochs=1)
    run, _ = train_run(config, tmp_path / "run", progress=False)
    first = [path.read_bytes() for path in write_sample_figures(run, count=4, seed=0)]
    again = [path.read_bytes() for path in write_sample_figures(run, count=4, seed=0)]
    other = [path.read_bytes() for path in write_sample_figures(run, count=4, seed=1)]
    assert first == again != other
