"""A cell of a study is a run: every command on runs takes its folder, and one record is read."""

import json
import os
import shutil

import pandas as pd
import pytest

from ppl_vae.cli import main
from ppl_vae.engines import Resources
from ppl_vae.runs import DIAGNOSES, RunConfig, RunRecord, list_evaluations, train_run
from ppl_vae.studies import Method, Study, format_status, open_study, read_cell

from .small import carry_out

FEW = ["--limit", "20", "--device", "cpu", "--json"]
COMMANDS = {
    "evaluate": ["--particles", "5", *FEW],
    "diagnose": ["--particles", "20", "--rate-data", "0", *FEW],
    "sample": ["--count", "3", "--device", "cpu", "--json"],
    "impute": ["--draws", "2", "--particles", "5", "--device", "cpu", "--json"],
    "fit": ["--device", "cpu", "--json"],
}
OF_A_PLACE = {"file", "files", "folder", "seconds"}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    place = tmp_path_factory.mktemp("cell")
    table = pd.DataFrame({"a": range(60), "b": [n % 7 for n in range(60)]}, dtype=float)
    table.loc[::9, "b"] = None
    table.to_csv(place / "x.csv", index=False)
    config = RunConfig.of(
        data=str(place / "x.csv"), hidden=(4,), latent=1, epochs=2, validation_particles=2
    )
    return Study(
        config=config, factors={"objective": ("elbo",)}, seeds=(0,), limit=5, measures=(),
        methods=(Method("iwae", {"particles": 5}),), resources=Resources(cpus=1),
    )  # fmt: skip


@pytest.fixture(scope="module")
def folders(study, tmp_path_factory):
    """A run and a study's cell of the same settings."""
    place = tmp_path_factory.mktemp("both")
    train_run(study.cells[0].config, place / "run", device="cpu", progress=False)
    carry_out(place / "study", study)
    (cell,) = (place / "study" / "cells").iterdir()
    return place / "run", cell


@pytest.fixture
def copies(folders, tmp_path):
    return [shutil.copytree(folder, tmp_path / folder.name) for folder in folders]


def without_place(values):
    """The values that say neither where nor how long."""
    if isinstance(values, dict):
        kept = {k: v for k, v in values.items() if k not in OF_A_PLACE}
        return {name: without_place(value) for name, value in kept.items()}
    return [without_place(value) for value in values] if isinstance(values, list) else values


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_take_a_cell_as_a_run(command, study, copies, capsys, monkeypatch):
    # Others take long, and are no different.
    monkeypatch.setattr("ppl_vae.runs._diagnose.DIAGNOSES", DIAGNOSES[:3])
    printed, written = [], []
    for folder in copies:
        where = [str(folder)]
        if command == "fit":
            where = ["--config", str(folder / "config.json"), "--out", str(folder)]
        before = set(folder.rglob("*"))
        main([command, *where, *COMMANDS[command]])
        printed.append(without_place(json.loads(capsys.readouterr().out)))
        written.append({p.relative_to(folder).as_posix() for p in set(folder.rglob("*")) - before})
    assert printed[0] == printed[1]
    assert written[0] - {"evaluations"} == written[1]
    if command != "fit":
        plan = study.cells[0]
        record = RunRecord.read(copies[1], plan.arm, 0, plan.key, plan.levels)
        assert record.state == "done", "the study's own results are what they were"


def test_one_record_of_a_run_and_a_cell(folders, study):
    run, cell = (json.loads((folder / "run.json").read_text()) for folder in folders)
    assert run.keys() == cell.keys()
    same = ("state", "arm", "seed", "epochs", "updates", "evaluations", "kept_epoch", "attempts")
    assert {name: run[name] for name in same} == {name: cell[name] for name in same}
    assert run["state"] == "done"
    names = [{path.name for path in folder.iterdir()} - {"evaluations"} for folder in folders]
    assert names[0] == names[1]
    assert set(run["files"]) == names[0] - {"run.json", "run.lock", "log.txt"}


def test_a_failure_of_fit_is_in_the_record(study, tmp_path):
    config = study.cells[0].config.changed(learning_rate=1e39)
    with pytest.raises(ValueError, match="finite") as caught:
        train_run(config, tmp_path / "run", device="cpu", progress=False)
    record = RunRecord.read(tmp_path / "run", "elbo", 0, "")
    assert (record.state, record.attempts, record.process) == ("failed", 1, os.getpid())
    assert record.reason == " ".join(str(caught.value).split())
    assert "Traceback" in (tmp_path / "run" / "log.txt").read_text()


@pytest.mark.parametrize("name", ["checkpoint.safetensors", "data.safetensors", "config.json"])
def test_a_bit_flipped_in_a_done_cell_is_seen_by_status_as_by_run(name, study, folders, tmp_path):
    folder = shutil.copytree(folders[1].parents[1], tmp_path / "study")
    path = folder / "cells" / folders[1].name / name
    content, times = bytearray(path.read_bytes()), path.stat()
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    # As a disk does it, which tells nobody.
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    results = open_study(folder)
    assert [cell.state for cell in results.cells] == ["waiting"]
    assert f"{name} is not as it was written" in format_status(results)
    assert any(f"{name} is not as it was written" in note for note in results.warnings)


@pytest.mark.parametrize("longer", [True, False])
def test_a_checkpoint_that_is_not_the_cells_is_put_aside(longer, study, folders, tmp_path, capsys):
    """That of a longer run of the same settings, or one cut short: the cell is done anew."""
    folder = shutil.copytree(folders[1].parents[1], tmp_path / "study")
    cell = folder / "cells" / folders[1].name
    expected = (cell / "checkpoint.safetensors").read_bytes()
    wrong = expected[:-100]
    if longer:
        config = study.cells[0].config.changed(epochs=3)
        train_run(config, tmp_path / "longer", device="cpu", progress=False)
        wrong = (tmp_path / "longer" / "checkpoint.safetensors").read_bytes()
    (cell / "checkpoint.safetensors").write_bytes(wrong)
    with pytest.raises(SystemExit):
        main(["evaluate", str(cell), *COMMANDS["evaluate"]])
    printed = capsys.readouterr()
    assert "checkpoint.safetensors" in printed.err
    assert not printed.out
    results = carry_out(folder, study)
    assert [each.state for each in results.cells] == ["done"]
    assert results.cells[0].epochs == 2
    assert (cell / "checkpoint.safetensors.changed").read_bytes() == wrong
    main(["evaluate", str(cell), *COMMANDS["evaluate"]])


def test_fit_goes_on_from_a_cell_and_the_study_sees_it(study, folders, tmp_path):
    folder = shutil.copytree(folders[1].parents[1], tmp_path / "study")
    cell = folder / "cells" / folders[1].name
    longer = study.cells[0].config.changed(epochs=3)
    train_run(longer, cell, device="cpu", progress=False)
    assert read_cell(study.cells[0], folder).reason.endswith("run.json is of another plan")


def test_what_is_copied_from_another_run_is_told(copies, study, tmp_path, capsys, monkeypatch):
    other = study.cells[0].config.changed(seed=1)
    monkeypatch.setattr("ppl_vae.runs._diagnose.DIAGNOSES", DIAGNOSES[:3])
    train_run(other, tmp_path / "other", device="cpu", progress=False)
    for folder in (tmp_path / "other", copies[0]):
        main(["evaluate", str(folder), *COMMANDS["evaluate"]])
        main(["diagnose", str(folder), *COMMANDS["diagnose"]])
    for path in (tmp_path / "other" / "evaluations").glob("*.nc"):
        shutil.copy(path, copies[0] / "evaluations" / path.name)
    # Of the same settings and data: the same numbers, whichever folder they were made in.
    shutil.copytree(copies[1] / "evaluations", copies[0] / "evaluations", dirs_exist_ok=True)
    stored = list_evaluations(copies[0])
    assert sorted(each.foreign for each in stored) == [False, False, False, True, True]
    capsys.readouterr()
    main(["evaluate", str(copies[0]), "--list"])
    assert capsys.readouterr().out.count("foreign: of another run") == 2
    main(["evaluate", str(copies[0]), "--list", "--json"])
    values = json.loads(capsys.readouterr().out)["evaluations"]
    assert [each["foreign"] for each in values] == [each.foreign for each in stored]
