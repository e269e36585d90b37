"""Cells of one study are trained on one data set, though its file may be written anew."""

import numpy as np
import pytest

from ppl_vae.studies import Place, format_status, open_study, run_cell
from ppl_vae.studies._study import write_plan

from .small import CONFIG, carry_out, plan

ROWS = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32)
ONE = {"factors": {"objective": ("elbo",)}}


@pytest.fixture
def files(tmp_path):
    """A file of training rows and one of test rows."""
    names = tmp_path / "train.npy", tmp_path / "held.npy"
    for path, rows in zip(names, (ROWS, -ROWS[:30]), strict=True):
        np.save(path, rows)
    return names


def of_files(files, **changes):
    train, test = map(str, files)
    config = CONFIG.changed(data=train, test_data=test, likelihood="normal", epochs=1)
    return plan(config=config, limit=None, measures=(), **changes)


def cells_in(folder):
    return sorted(path.name for path in (folder / "cells").iterdir())


@pytest.mark.parametrize(("which", "rows"), [(0, 60), (1, 20)], ids=["training", "test"])
def test_more_cells_on_other_rows_are_refused_before_they_are_trained(files, which, rows, tmp_path):
    folder = tmp_path / "study"
    carry_out(folder, of_files(files, **ONE))
    whole = np.load(files[which])
    np.save(files[which], whole[:rows])
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=r"other data than train\.npy and held\.npy") as no:
        carry_out(folder, of_files(files))
    assert "holds 2 of 4 cells" in str(no.value)
    assert "(elbo seed 0, elbo seed 1): choose another folder, or bring the data back" in str(
        no.value
    )
    after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert after == before
    # The file as it was, and another folder, are the remedies that the message names.
    assert carry_out(tmp_path / "other", of_files(files)).comparison().num_data == min(rows, 30)
    np.save(files[which], whole)
    assert carry_out(folder, of_files(files)).comparison().num_data == 30


def test_more_seeds_on_other_rows_are_refused_too(files, tmp_path):
    carry_out(tmp_path / "study", of_files(files, **{**ONE, "seeds": (0,)}))
    np.save(files[0], ROWS[:60])
    with pytest.raises(ValueError, match=r"1 of 2 cells .*\(elbo seed 0\)"):
        carry_out(tmp_path / "study", of_files(files, **ONE))
    assert cells_in(tmp_path / "study") == ["elbo-seed0"]


def test_a_folder_of_mixed_cells_has_no_results(files, tmp_path):
    """As an earlier version left it, or a file that was changed while cells were trained."""
    folder = tmp_path / "study"
    carry_out(folder, of_files(files, **ONE))
    np.save(files[0], ROWS[:60])
    both = of_files(files)
    for each in both.cells:
        assert run_cell(each, folder, Place(device="cpu")).state == "done"
    write_plan(both, folder)
    with pytest.raises(ValueError, match="cannot be compared") as refused:
        open_study(folder)
    assert "(elbo seed 0, elbo seed 1; others iwae:2 seed 0, iwae:2 seed 1)" in str(refused.value)
    # What is of one data set can still be read.
    assert open_study(folder, planned=of_files(files, **ONE)).comparison().num_data == 30


def test_a_cell_that_no_epoch_was_trained_of_is_begun_on_the_new_rows(files, tmp_path):
    folder = tmp_path / "study"
    carry_out(folder, of_files(files, **ONE))
    for cell in (folder / "cells").iterdir():
        (cell / "checkpoint.safetensors").unlink()
    np.save(files[0], ROWS[:60])
    results = carry_out(folder, of_files(files))
    assert "4 done of 4 cells" in format_status(results)
    assert len({cell.data_sha256 for cell in results.cells}) == 1


def test_arms_whose_settings_name_other_training_data_are_compared(tmp_path):
    """Grey training images or binarised ones: the test images are the same."""
    config = CONFIG.changed(epochs=1)
    arms = plan(config=config, factors={"binarize": ("static", "dynamic")}, seeds=(0,), measures=())
    results = carry_out(tmp_path, arms)
    assert len({cell.data_sha256 for cell in results.cells}) == 2
    assert len(results.comparison().arms) == 2
