"""A run's folder: budgets, curves while it trains, and what a kill leaves."""

import csv
import io
import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
import torch

from ppl_vae.evidence import ImportanceSampling
from ppl_vae.files import exclusive, leftovers
from ppl_vae.runs import RunConfig, evaluate_run, list_evaluations, open_run, train_run
from ppl_vae.runs._evaluations import save_evaluation
from ppl_vae.runs._train import LiveHistory
from ppl_vae.training import History, NonFiniteError, Snapshot

SMALL = {"hidden": (4,), "latent": 2, "batch_size": 400, "validation_particles": 2}


def train(folder, **settings):
    limited = settings.keys() & {"updates", "seconds", "decoder_evaluations"}
    epochs = {} if limited else {"epochs": 2}
    config = RunConfig.from_mapping({**SMALL, **epochs, **settings})
    return train_run(config, folder, device="cpu", progress=False)


def csv_of(folder):
    return History.from_csv((folder / "history.csv").read_text())


class TestBudget:
    def test_ends_the_run_in_place_of_epochs(self, tmp_path):
        _, result = train(tmp_path, updates=6, epochs=None)
        assert result.history.column("updates") == [4, 6]
        assert not result.stopped_early
        assert open_run(tmp_path, device="cpu").config.training.budget.updates == 6

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"updates": 0}, "updates must be 1 or more, got 0"),
            ({"seconds": -2.0}, "seconds must be positive"),
            ({"decoder_evaluations": -1}, "decoder_evaluations must be 1 or more"),
            ({"updates": 3, "seconds": 2.0}, "exactly one limit .* got updates and seconds"),
        ],
    )
    def test_wrong_ones_are_found_before_anything_is_written(self, settings, message, tmp_path):
        with pytest.raises(ValueError, match=f"^[^\n]*{message}[^\n]*$"):
            train(tmp_path / "run", **settings)
        assert not (tmp_path / "run").exists()

    def test_a_longer_one_of_the_same_kind_goes_on(self, tmp_path):
        train(tmp_path / "part", updates=5)
        _, longer = train(tmp_path / "part", updates=7)
        _, whole = train(tmp_path / "whole", updates=7)
        same = [
            [{**record, "seconds": 0} for record in result.history.to_json()]
            for result in (longer, whole)
        ]
        assert same[0] == same[1]
        assert csv_of(tmp_path / "part") == longer.history

    @pytest.mark.parametrize("other", [{}, {"seconds": 1.0}, {"decoder_evaluations": 9000}])
    def test_another_kind_is_another_run(self, other, tmp_path):
        train(tmp_path, updates=5)
        content = (tmp_path / "config.json").read_text()
        with pytest.raises(ValueError, match=r"other settings .*updates 5 there, None here"):
            train(tmp_path, **other)
        assert (tmp_path / "config.json").read_text() == content

    def test_longer_under_a_schedule_changes_nothing(self, tmp_path):
        train(tmp_path, schedule="cosine", epochs=1)
        content = (tmp_path / "config.json").read_text()
        with pytest.raises(ValueError, match=r"other settings .*epochs 1 there, 3 here"):
            train(tmp_path, schedule="cosine", epochs=3)
        assert (tmp_path / "config.json").read_text() == content

    def test_a_configuration_from_before_budgets_opens_and_goes_on(self, tmp_path):
        train(tmp_path, epochs=1)
        path = tmp_path / "config.json"
        saved = json.loads(path.read_text())
        for name in ("updates", "seconds", "decoder_evaluations"):
            del saved["config"][name]
        path.write_text(json.dumps(saved))
        assert open_run(tmp_path, device="cpu").config.training.budget.epochs == 1
        assert len(train(tmp_path, epochs=2)[1].history) == 2


class TestCurves:
    def test_are_in_the_file_after_every_epoch(self, tmp_path, monkeypatch):
        seen = []

        def watch(tensors):
            if (tmp_path / "history.csv").exists():
                seen.append(len(csv_of(tmp_path)))
            return tensors

        monkeypatch.setattr("ppl_vae.runs._train.binarize_batch", watch)
        _, result = train(tmp_path, binarize="dynamic", likelihood="normal", epochs=3)
        # The programs are looked at before anything is written, then four batches an epoch.
        assert seen == 4 * [0] + 4 * [1] + 4 * [2]
        assert csv_of(tmp_path) == result.history

    @pytest.mark.parametrize("kept", [0, 1, 2])
    def test_are_written_anew_from_the_checkpoint(self, kept, tmp_path):
        """Lines that a killed run wrote after its last checkpoint, or had not written yet."""
        _, result = train(tmp_path, epochs=2)
        path = tmp_path / "history.csv"
        lines = path.read_text().splitlines(keepends=True)
        for content in (
            "".join(lines[: kept + 1]),
            "".join(lines) + lines[2].replace("2,", "3,", 1),
            "".join(lines)[:-7],
            "",
        ):
            path.write_text(content)
            _, again = train(tmp_path, epochs=2)
            assert csv_of(tmp_path) == result.history == again.history
        path.unlink()
        _, longer = train(tmp_path, epochs=4)
        assert csv_of(tmp_path) == longer.history
        assert [row["epoch"] for row in csv.DictReader(io.StringIO(path.read_text()))] == list(
            "1234"
        )

    def test_without_a_validation_error_or_many_latents(self, tmp_path):
        _, result = train(tmp_path, latent=(3, 2), guide="normal")
        assert csv_of(tmp_path) == result.history
        assert len(result.history.records[0].kl) == 2


def test_a_history_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "history.csv").mkdir()
    with pytest.raises(OSError, match=r"could not write .*history\.csv: .* last checkpoint$"):
        LiveHistory(tmp_path / "history.csv", History())


class TestTensorBoard:
    def points(self, folder, axis, tag):
        reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
        found = reader.EventAccumulator(str(folder / "tensorboard" / f"by-{axis}"))
        found.Reload()
        return [(event.step, event.value) for event in found.Scalars(tag)]

    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    def test_has_every_epoch_once_also_when_gone_on(self, tmp_path):
        pytest.importorskip("tensorboard")
        config = RunConfig.from_mapping({**SMALL, "epochs": 2})
        longer = RunConfig.from_mapping({**SMALL, "epochs": 4})
        for step in (config, longer, longer):
            _, result = train_run(step, tmp_path, device="cpu", progress=False, tensorboard=True)
        history = result.history
        for tag, values in (
            ("bound", history.column("bound")),
            ("log_likelihood", history.column("log_likelihood")),
            ("kl/z", [record.kl["z"] for record in history.records]),
            ("validation", history.column("validation")),
            ("learning_rate", history.column("learning_rate")),
        ):
            for axis in ("epoch", "updates"):
                steps, numbers = zip(*self.points(tmp_path, axis, tag), strict=True)
                assert list(steps) == history.column(axis)
                assert numbers == pytest.approx(values, rel=1e-6)

    def test_that_is_not_installed_is_one_line(self, tmp_path, monkeypatch):
        # What Python's own import does with None is to fail.
        monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
        with pytest.raises(ImportError, match=r"^[^\n]*pip install 'ppl_vae\[tensorboard\]'\.$"):
            train_run(RunConfig.from_mapping(SMALL), tmp_path / "run", tensorboard=True)
        assert not (tmp_path / "run").exists()


class TestFolder:
    @pytest.mark.parametrize(
        "name",
        [
            "log.txt", "study.lock", "study.lock.holder", ".ppl_vae-abc1_xyz.tmp",
        ],
    )  # fmt: skip
    def test_takes_what_a_study_or_a_kill_left_there(self, name, tmp_path):
        if name.startswith("."):
            (tmp_path / name).mkdir()
            (tmp_path / name / "config.json").write_text("?")
        else:
            (tmp_path / name).write_text("?")
        train(tmp_path, epochs=1)
        assert (tmp_path / name).exists() == (not name.startswith("."))
        assert leftovers(tmp_path) == []

    @pytest.mark.parametrize(
        "name", ["notes.txt", "x.csv", ".config.json", ".config.json.abc1_xyz", ".bashrc"]
    )
    def test_does_not_take_a_folder_of_something_else(self, name, tmp_path):
        (tmp_path / name).write_text("?")
        with pytest.raises(ValueError, match="is not empty and holds no run"):
            train(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == [name]

    def test_two_do_not_train_in_it_at_once(self, tmp_path):
        train(tmp_path / "run", epochs=1)
        content = (tmp_path / "run" / "checkpoint.safetensors").read_bytes()
        busy = exclusive(tmp_path / "run" / "run.lock", "it")
        with busy, pytest.raises(BlockingIOError, match=r"^run .* is in use by process \d+ on "):
            train(tmp_path / "run", epochs=2)
        assert (tmp_path / "run" / "checkpoint.safetensors").read_bytes() == content
        assert len(train(tmp_path / "run", epochs=2)[1].history) == 2

    def test_a_run_gone_on_removes_leftovers_and_nothing_else(self, tmp_path):
        train(tmp_path, epochs=1)
        mine = [tmp_path / name for name in (".notes.old.20240101", ".env.local.password")]
        for path in mine:
            path.write_text("?")
        (tmp_path / ".ppl_vae-a1b2c3d4.tmp").mkdir()
        train(tmp_path, epochs=2)
        assert all(path.exists() for path in mine)
        assert leftovers(tmp_path) == []

    def test_an_attempt_that_failed_in_its_first_epoch_leaves_no_run(self, tmp_path):
        with pytest.raises(NonFiniteError):
            train(tmp_path, learning_rate=1e39)
        assert csv_of(tmp_path) == History()
        train(tmp_path, epochs=1)


class TestBelongsToNobody:
    @pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"guide": "ladder"}])
    def test_what_is_refused_leaves_nothing(self, wrong, tmp_path):
        with pytest.raises(ValueError):  # noqa: PT011
            train(tmp_path / "run", **wrong)
        assert not (tmp_path / "run").exists()
        train(tmp_path / "run", epochs=1)

    def test_a_folder_without_a_finished_epoch(self, tmp_path):
        with pytest.raises(NonFiniteError):
            train(tmp_path, learning_rate=1e39)
        train(tmp_path, epochs=1)
        assert open_run(tmp_path, device="cpu").config.training.learning_rate == 1e-3


class TestWithoutItsData:
    def test_a_run_opens_and_evaluates_new_rows(self, tmp_path):
        rows = torch.rand(60, 5, generator=torch.Generator().manual_seed(0)).numpy()
        numpy.save(tmp_path / "mine.npy", rows)
        run, _ = train(tmp_path / "run", data=str(tmp_path / "mine.npy"), likelihood="normal")
        (tmp_path / "mine.npy").unlink()
        numpy.save(tmp_path / "new.npy", rows[:7])
        again, estimator = open_run(tmp_path / "run", device="cpu"), ImportanceSampling(10)
        found = evaluate_run(again, estimator=estimator, file=tmp_path / "new.npy", progress=False)
        expected = estimator(run.vae.eval().model, run.vae.guide, torch.from_numpy(rows[:7]))
        assert torch.equal(found.log_prob, expected.log_prob)
        assert str(found.identity.source) == "new.npy"
        with pytest.raises(FileNotFoundError, match=r"mine\.npy"):
            again.rows("test")
        numpy.save(tmp_path / "wrong.npy", rows[:, :3])
        with pytest.raises(ValueError, match=r"wrong\.npy: rows have shape"):
            again.rows(file=tmp_path / "wrong.npy")


class TestOtherFiles:
    @pytest.mark.parametrize(
        ("other", "named"),
        [
            ({"seed": 1}, r"seed 1 there, 0 here"),
            ({"objective": "iwae:5"}, r"objective IWAE\(num_particles=5\) there, ELBO\(.*\) here"),
            (
                {"learning_rate": 0.01},
                r"learning_rate Constant\(.*0\.01\) there, Constant\(.*\) here",
            ),
            # Of what the model is made of a checkpoint has a hash alone.
            ({"latent": 3}, r"config [0-9a-f]{12}\.\.\. there, [0-9a-f]{12}\.\.\. here"),
        ],
        ids=["seed", "objective", "rate", "model"],
    )
    def test_a_checkpoint_of_another_run_is_refused(self, other, named, tmp_path):
        """By what differs, as far as the file says it, and no hash of 64 digits."""
        train(tmp_path / "a", epochs=1)
        train(tmp_path / "b", epochs=1, **other)
        name = "checkpoint.safetensors"
        (tmp_path / "a" / name).write_bytes((tmp_path / "b" / name).read_bytes())
        opening = (
            rf"checkpoint\.safetensors is of another run than .*config\.json says \({named}\): "
            r"bring back a copy of the run's own file, or train anew in another folder\.$"
        )
        with pytest.raises(ValueError, match=opening):
            open_run(tmp_path / "a", device="cpu")
        going_on = rf"is of a run with other settings: .*{named}.*\. Take those, or another file or"
        with pytest.raises(ValueError, match=going_on) as refused:
            train(tmp_path / "a", epochs=2)
        assert not re.search("[0-9a-f]{13}", str(refused.value))

    def test_a_flipped_bit_and_another_type_are_refused(self, tmp_path):
        train(tmp_path, epochs=1)
        path = tmp_path / "checkpoint.safetensors"
        whole, kept = Snapshot.load(path), path.read_bytes()
        path.write_bytes(kept[:-100] + bytes([kept[-100] ^ 1]) + kept[-99:])
        with pytest.raises(ValueError, match=r"checkpoint\.safetensors is not as it was written"):
            open_run(tmp_path, device="cpu")
        rounded = {name: value.round().long() for name, value in whole.best.items()}
        replace(whole, best=rounded).save(path)
        with pytest.raises(ValueError, match=r"is not as it was written when the run was done"):
            open_run(tmp_path, device="cpu")
        # Where no record tells, as of parameters that were passed on alone.
        (tmp_path / "run.json").unlink()
        with pytest.raises(ValueError, match=r"is torch\.int64, expected torch\.float32"):
            open_run(tmp_path, device="cpu")

    def test_an_evaluation_is_of_the_parameters_in_memory(self, tmp_path):
        estimator = ImportanceSampling(10)
        first, _ = train(tmp_path, epochs=1)
        train(tmp_path, epochs=3)
        early = evaluate_run(first, estimator=estimator, limit=20, progress=False)
        now = open_run(tmp_path, device="cpu")
        late = evaluate_run(now, estimator=estimator, limit=20, progress=False)
        assert early.identity.parameters != late.identity.parameters
        assert not torch.equal(early.log_prob, late.log_prob)

    def test_what_changed_programs_give_is_kept_beside(self, tmp_path, monkeypatch):
        estimator = ImportanceSampling(10)
        run, _ = train(tmp_path, epochs=1)

        def evaluate():
            return evaluate_run(run, estimator=estimator, limit=20, progress=False)

        first, decoder = evaluate(), type(run.vae.decoder)
        true = decoder.forward
        with monkeypatch.context() as context:
            context.setattr(decoder, "forward", lambda self, z: true(self, 50.0 + z))
            second = evaluate()
            assert torch.equal(evaluate().log_prob, second.log_prob)
        assert second.identity.key == first.identity.key
        assert not torch.equal(first.log_prob, second.log_prob)
        assert torch.equal(evaluate().log_prob, first.log_prob)
        stored = list_evaluations(tmp_path)
        assert {each.evidence.mean for each in stored} == {first.mean, second.mean}
        # A number that is rounding, as on another machine, is the same program.
        (there,) = [each.path for each in stored if each.evidence.mean == first.mean]
        moved = {name: value + 1e-5 for name, value in first.identity.densities.items()}
        other = replace(first, identity=replace(first.identity, densities=moved))
        there.unlink()
        save_evaluation(other, there.with_name(there.name[:-9] + "ffffff.nc"), run)
        assert torch.equal(evaluate().log_prob, first.log_prob)
        assert len(list_evaluations(tmp_path)) == 2


KILLED = """
import sys
from pathlib import Path
import ppl_vae.runs._train as module
from killed import killed_before
from ppl_vae.runs import RunConfig, train_run
from ppl_vae.training import fit

folder = Path(sys.argv[1])
# A checkpoint after every epoch: most kills are in the middle of a save.
module.fit = lambda *args, **kwargs: fit(*args, **kwargs, checkpoint_seconds=0.0)
config = RunConfig.of(hidden=(4,), latent=2, batch_size=400, validation_particles=2, updates=100)

def train(to):
    train_run(config, folder / to, device="cpu", progress=False)

train("whole")
kills = 0
# Of the hundred changes of files that the whole run makes.
for number in (3, 8, 13, 18, 23, 28):
    assert killed_before(number, lambda: train("killed")), number
    kills += 1
    names = sorted(path.name for path in (folder / "killed").glob("*"))
    print("after kill", kills, names)
train("killed")
print("kills:", kills)
"""


def test_killed_in_the_middle_of_changes_it_ends_as_if_undisturbed(tmp_path, interpreter):
    """kill -9, again and again, in one process's children."""
    done = interpreter.run(KILLED, tmp_path, cwd=Path(__file__).parents[1])
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("kills: 6\n"), done.stdout
    whole, killed = (Snapshot.load(tmp_path / n / "checkpoint.safetensors") for n in
                     ("whole", "killed"))  # fmt: skip
    for group in ("parameter", "buffer", "best", "best_buffer", "optimizer"):
        left, right = getattr(whole, group), getattr(killed, group)
        assert left.keys() == right.keys()
        assert all(torch.equal(left[name], right[name]) for name in left), group
    timeless = [
        [{**record, "seconds": 0} for record in checkpoint.history.to_json()]
        for checkpoint in (whole, killed)
    ]
    assert timeless[0] == timeless[1]
    assert csv_of(tmp_path / "killed") == killed.history
    names = {path.name for path in (tmp_path / "killed").iterdir()}
    assert names == {
        "config.json", "checkpoint.safetensors", "history.csv", "data.safetensors", "run.lock",
        "run.json", "log.txt",
    }  # fmt: skip
