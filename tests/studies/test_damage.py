"""Any file of a finished study deleted, swapped, cut short or changed in one bit."""

import shutil

import pytest

from ppl_vae.comparison import compare
from ppl_vae.evidence import ImportanceSampling
from ppl_vae.runs import evaluate_run, list_evaluations, open_run
from ppl_vae.studies import comparison_summary, open_study, write_results

from .small import CONFIG, carry_out, plan

TINY = plan(
    config=CONFIG.changed(epochs=1),
    seeds=(0,),
    limit=10,
    measures=("decomposition", "pictures"),
)
CELL = "cells/elbo-seed0/"
NOT_READ = ("run.lock", "log.txt")


def deleted(path, _other):
    path.unlink()


def swapped(path, other):
    if other is not None:
        path.write_bytes(other.read_bytes())


def cut_short(path, _other):
    path.write_bytes(path.read_bytes()[:-20])


def one_bit(path, _other):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "study"
    carry_out(folder, TINY)
    return folder


def counterpart(path, folder):
    """The file of the same kind in another cell."""
    place = folder / "cells" / "iwae-2-seed0" / path.relative_to(folder / CELL).parent
    found = [other for other in place.iterdir() if other.suffix == path.suffix]
    named = [other for other in found if other.name == path.name]
    return (named or found)[0]


def numbers(results):
    summary = comparison_summary(results)
    return {} if summary is None else {arm: s["mean"] for arm, s in summary["arms"].items()}


@pytest.mark.parametrize("damage", [deleted, swapped, cut_short, one_bit])
def test_no_damage_prints_another_number(damage, whole, tmp_path):
    expected = numbers(open_study(whole))
    names = [path.relative_to(whole) for path in whole.rglob("*") if path.is_file()]
    cell = [name for name in names if str(name).startswith(CELL) and name.name not in NOT_READ]
    plans = [name for name in names if name.name in ("study.json", "manifest.json")]
    assert len(cell) == 8
    for number, name in enumerate([*cell, *plans]):
        folder = shutil.copytree(whole, tmp_path / str(number))
        path = folder / name
        damage(path, counterpart(path, folder) if name in cell else None)
        if path.exists() and path.read_bytes() == (whole / name).read_bytes():
            continue
        try:
            found = open_study(folder)
            write_results(found)
            reported = numbers(found)
            text = " ".join(found.warnings)
        except (ValueError, FileNotFoundError) as error:
            reported, text = {}, str(error)
        assert reported.items() <= expected.items(), name
        assert reported == expected or name.name in text, name
        try:
            again = carry_out(folder, TINY)
            reported, text = numbers(again), " ".join(again.warnings)
        except (ValueError, FileNotFoundError) as error:
            reported, text = {}, str(error)
        assert reported.items() <= expected.items(), name
        assert reported == expected or name.name in text, name


def test_another_evaluation_of_a_cell_changes_nothing(whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "study")
    run = open_run(folder / CELL, device="cpu")
    for options in ({"split": "valid"}, {"limit": 5}, {}):
        evaluate_run(run, estimator=ImportanceSampling(2), progress=False, **options)
    found = open_study(folder)
    assert numbers(found) == numbers(open_study(whole))
    assert not [note for note in found.warnings if "left out" in note]
    assert len(list_evaluations(folder / CELL)) == 4


def test_arms_on_other_rows_are_refused(whole):
    run = open_run(whole / CELL, device="cpu")
    options = {"estimator": ImportanceSampling(2), "progress": False}
    test, valid = (
        evaluate_run(run, split=split, limit=9, **options) for split in ("test", "valid")
    )
    with pytest.raises(ValueError, match=r"a seed 0 and b seed 0 are of other data .*valid"):
        compare({"a": {0: test}, "b": {0: valid}})
