"""Tables with missing cells, as typed: trained on, evaluated, filled in."""

import json
import math
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_wine

from .command import fails, run

SMALL = ["--epochs", 100, "--hidden", 16, "--latent", 3, "--validation-particles", 5,
         "--learning-rate", 0.01]  # fmt: skip


def mixed_table(rows=150):
    """Real, count, text and ordinal columns that depend on each other; a fifth of cells missing."""
    rng = np.random.default_rng(0)
    group = rng.integers(3, size=rows)
    table = pd.DataFrame(
        {
            "town": np.array(["Rome", "Oslo", "Bern"])[group],
            "height": rng.normal(160 + 10 * group, 2).round(1),
            "visits": rng.poisson(2 + 5 * group),
            "size": np.array(["small", "middle", "large"])[group],
        }
    )
    holes = rng.random(table.shape) < 0.2
    holes[0] = [True, False, False, False]
    return table.mask(holes), table, holes


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("table")
    table, full, holes = mixed_table()
    table.to_csv(folder / "people.csv", index=False)
    from ppl_vae.cli import main

    main(
        [
            str(a)
            for a in [
                "fit", "--data", folder / "people.csv", "--columns",
                "visits=count,size=ordinal:small<middle<large", "--out", folder / "run", *SMALL,
            ]
        ]
    )  # fmt: skip
    return folder, full, holes


def test_what_it_was_trained_on_is_said(trained, capsys):
    folder, _, _ = trained
    config = json.loads((folder / "run" / "config.json").read_text())["config"]
    assert config["likelihood"]["class_path"].endswith("TableDecoder")
    assert config["columns"] == {"visits": "count", "size": "ordinal:small<middle<large"}
    again = ["--config", folder / "run" / "config.json", "--out", folder / "run"]
    status, out, err = run(capsys, "fit", *again)
    assert status == 0, err
    assert "Columns: town categorical, height real, visits count" in out
    assert "of the cells missing." in out


def test_log_p_of_the_observed_cells(trained, capsys):
    folder, _, _ = trained
    status, out, err = run(capsys, "evaluate", folder / "run", "--particles", 200)
    assert status == 0, err
    assert "log p of the observed cells; " in out
    assert "bits per dimension" not in out
    assert math.isfinite(
        json.loads(run(capsys, "evaluate", folder / "run", "--particles", 200, "--json")[1])[
            "log_prob"
        ]
    )


def test_filled_in(trained, capsys):
    folder, full, holes = trained
    status, out, err = run(
        capsys, "impute", folder / "run", "--draws", 3, "--particles", 100, "--out",
        folder / "full.csv",
    )  # fmt: skip
    assert status == 0, err
    assert f"{holes.sum()} missing cells in {holes.any(1).sum()} of 150 rows" in out
    given = pd.read_csv(folder / "people.csv")
    draws, point = pd.read_csv(folder / "full.csv"), pd.read_csv(folder / "full-point.csv")
    assert list(draws.columns) == ["imputation", *given.columns]
    assert draws["imputation"].value_counts().to_dict() == {1: 150, 2: 150, 3: 150}
    assert not draws.isna().any(axis=None)
    for table in (point, draws[draws["imputation"] == 2].drop(columns="imputation")):
        for column in given.columns:
            seen = given[column].notna().to_numpy()
            expected = given[column][seen].tolist()
            assert table[column].to_numpy()[seen].tolist() == expected
    assert set(point["size"]) <= {"small", "middle", "large"}
    towns = holes[:, 0]
    assert (point["town"].to_numpy()[towns] == full["town"].to_numpy()[towns]).mean() > 0.6


def test_log_p_of_another_table(trained, capsys, tmp_path):
    folder, full, _ = trained
    path = tmp_path / "new.csv"
    arguments = ["evaluate", folder / "run", "--data", path, "--particles", 5]

    def evaluate(table, *more):
        table.to_csv(path, index=False)
        status, out, err = run(capsys, *arguments, *more)
        assert status == 0, err
        return out, err

    names = ["town", "height", "visits", "size"]
    # The training data need not be there.
    (folder / "people.csv").rename(folder / "away.csv")
    try:
        out, err = evaluate(full[:9][names])
    finally:
        (folder / "away.csv").rename(folder / "people.csv")
    assert "on new.csv" in out
    assert err == ""
    first = json.loads(evaluate(full[:9][names], "--json")[0])
    assert first["num_data"] == 9
    # Of the same rows, in another order of the columns and with one that the model does not know.
    out, err = evaluate(full[:9][names[::-1]].assign(weight=60.5, shoe=range(9)), "--json")
    assert json.loads(out)["log_prob"] == first["log_prob"]
    assert err == "data: new.csv: left out, unknown to the model: 'weight', 'shoe'\n"
    for table, message in (
        (full[:9].replace("Rome", "Paris"), "column 'town' holds 'Paris' in row "),
        (full[:9].drop(columns="height"), "no column 'height', which the model was trained with"),
        (full[:9].assign(visits="many"), "column 'visits' is not numeric: 'many' in row 1"),
        (full[:0], "holds no rows"),
    ):
        table.to_csv(path, index=False)
        line = fails(capsys, *arguments)
        assert f"{path}: {message}" in line
    assert "--limit 100: only 9 rows are there" in evaluate(full[:9], "--limit", 100)[0]
    line = fails(capsys, *arguments[:3], tmp_path / "none.csv")
    assert "none.csv: no such file" in line
    assert "have no splits" in fails(capsys, *arguments, "--split", "valid", code=2)


def test_another_table(trained, capsys, tmp_path):
    folder, _, _ = trained
    new = pd.DataFrame({"size": ["large", None], "visits": [None, 3], "height": [181.5, None],
                        "town": [None, "Rome"]})  # fmt: skip
    new.to_csv(tmp_path / "new.csv", index=False)
    arguments = ["--data", tmp_path / "new.csv", "--draws", 2, "--particles", 50]
    arguments += ["--out", tmp_path / "o.csv"]
    status, _, err = run(capsys, "impute", folder / "run", *arguments)
    assert status == 0, err
    assert list(pd.read_csv(tmp_path / "o-point.csv").columns) == list(new.columns)
    new.replace("Rome", "Paris").to_csv(tmp_path / "new.csv", index=False)
    assert "holds 'Paris' in row 2" in fails(capsys, "impute", folder / "run", *arguments)
    new.drop(columns="town").to_csv(tmp_path / "new.csv", index=False)
    assert "no column 'town'" in fails(capsys, "impute", folder / "run", *arguments)


def test_the_share_of_missing_cells_is_that_of_the_rows(trained, capsys, tmp_path):
    folder, full, holes = trained
    for table, share in ((full, None), (full.mask(holes), f"{holes.mean():.1%}")):
        table.to_csv(tmp_path / "new.csv", index=False)
        arguments = ["--data", tmp_path / "new.csv", "--particles", 2]
        status, out, err = run(capsys, "evaluate", folder / "run", *arguments)
        assert status == 0, err
        assert ("of all cells are missing" in out) == (share is not None)
        assert share is None or f"{share} of all cells are missing" in out


def test_bits_are_of_the_observed_cells(tmp_path, capsys):
    x = (np.random.default_rng(0).random((100, 6)) < 0.5).astype(float)
    x[::2, :3] = np.nan
    np.save(tmp_path / "x.npy", x)
    arguments = ["--data", tmp_path / "x.npy", "--allow-missing", "--epochs", 1, "--hidden", 4]
    assert run(capsys, "fit", *arguments, "--latent", 1, "--out", tmp_path / "run")[0] == 0
    arguments = ["evaluate", tmp_path / "run", "--split", "train", "--particles", 2]
    status, out, err = run(capsys, *arguments)
    assert status == 0, err
    values = json.loads(run(capsys, *arguments, "--json")[1])
    observed = 6 * (1 - float(re.search(r"([\d.]+)% of all cells", out)[1]) / 100)
    expected = -values["log_prob"] / (observed * math.log(2))
    assert values["bits_per_dimension"] == pytest.approx(expected, rel=1e-3)
    assert "observed in a row on average" in out


def test_an_imputation_is_written_over_an_earlier_one_only(trained, capsys, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(trained[0], folder)
    few = ["impute", folder / "run", "--draws", 1, "--particles", 2]
    for path in (folder / "people.csv", folder / "run" / "history.csv"):
        before = path.read_bytes()
        line = fails(capsys, *few, "--data", folder / "people.csv", "--out", path)
        assert f"{path} is there and no earlier imputation" in line
        assert path.read_bytes() == before
    line = fails(capsys, *few, "--out", folder)
    assert f"{folder} is a folder" in line
    # The single best table goes beside, and must not take another file's place either.
    (tmp_path / "new-point.csv").write_text("mine")
    line = fails(capsys, *few, "--data", folder / "people.csv", "--out", tmp_path / "new.csv")
    assert "new-point.csv is there" in line
    assert (tmp_path / "new-point.csv").read_text() == "mine"
    assert not (tmp_path / "new.csv").exists()
    arguments = [*few, "--data", folder / "people.csv", "--out", tmp_path / "other.csv"]
    for _ in range(2):
        status, _, err = run(capsys, *arguments)
        assert status == 0, err
    # A table with such a column of its own is told from an imputation by nothing.
    table = pd.read_csv(folder / "people.csv")
    table.insert(0, "imputation", 1)
    table.to_csv(tmp_path / "own.csv", index=False)
    before = (tmp_path / "own.csv").read_bytes()
    line = fails(capsys, *few, "--data", tmp_path / "own.csv", "--out", tmp_path / "own.csv")
    assert "has a column 'imputation'" in line
    assert (tmp_path / "own.csv").read_bytes() == before


def test_a_table_that_was_changed_since_is_not_the_one_trained_on(trained, capsys):
    folder, _, _ = trained
    path = folder / "people.csv"
    before = path.read_text()
    path.write_text("".join(before.splitlines(keepends=True)[:-20]))
    few = ["impute", folder / "run", "--draws", 1, "--particles", 2]
    try:
        assert "differs from the data" in fails(capsys, *few)
        status, out, err = run(capsys, *few, "--data", path)
    finally:
        path.write_text(before)
    assert status == 0, err
    assert "of 130 rows" in out


def test_a_plain_table_of_numbers_with_holes_takes_other_likelihoods(tmp_path, capsys):
    x = load_wine().data.copy()
    x[np.random.default_rng(0).random(x.shape) < 0.1] = np.nan
    np.save(tmp_path / "wine.npy", x)
    arguments = ["--likelihood", "normal", "--data", tmp_path / "wine.npy", "--epochs", 2]
    line = fails(capsys, "fit", *arguments, "--out", tmp_path / "run")
    assert "missing or non-finite value(s), the first in row" in line
    assert "--allow-missing" in line
    arguments.append("--allow-missing")
    status, _, err = run(capsys, "fit", *arguments, "--out", tmp_path / "run")
    assert status == 0, err
    status, out, err = run(capsys, "evaluate", tmp_path / "run", "--particles", 50)
    assert status == 0, err
    assert "log p of the observed cells" in out
    assert "was not trained on a table" in fails(capsys, "impute", tmp_path / "run")


@pytest.mark.parametrize(
    ("columns", "message", "code"),
    [
        ("visits", "is not NAME=TEXT", 2),
        ("weight=real", "no column 'weight'", 1),
        ("town=count", "column 'town' is not numeric", 1),
        ("town=colour", "kinds are real, positive, count", 1),
    ],
)
def test_a_wrong_kind_is_one_line(trained, capsys, tmp_path, columns, message, code):
    arguments = ["--data", trained[0] / "people.csv", "--columns", columns]
    assert message in fails(capsys, "fit", *arguments, "--out", tmp_path / "run", code=code)
    assert not (tmp_path / "run").exists()


def test_kinds_belong_to_tables(capsys, tmp_path):
    line = fails(capsys, "fit", "--columns", "a=real", "--out", tmp_path / "run")
    assert "under the likelihood table only" in line
    line = fails(capsys, "fit", "--likelihood", "table", "--out", tmp_path / "run")
    assert "columns have kinds in a .csv or .parquet file, not in 'digits'" in line
