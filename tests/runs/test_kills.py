"""kill -9 while a run is evaluated, diagnosed or imputed: the next command leaves nothing over."""

from pathlib import Path

SCRIPT = """
import shutil, sys
from pathlib import Path
import numpy, pandas
import ppl_vae.evidence._loop as unfinished
import ppl_vae.evidence.annealing._pilot as pilot
import ppl_vae.runs._diagnose as diagnoses
from killed import count_changes, killed_before
from ppl_vae.engines import InProcess
from ppl_vae.evidence import ImportanceSampling, Sharded
from ppl_vae.imputation import impute_run
from ppl_vae.report import write_diagnosis, write_imputation
from ppl_vae.runs import DiagnosisSettings, RunConfig, diagnose_run, evaluate_run, open_run
from ppl_vae.runs import train_run

place = Path(sys.argv[1])
draws = numpy.random.default_rng(0)
table = pandas.DataFrame(draws.normal(size=(60, 3)), columns=list("abc"))
table.iloc[::5, 1] = None
table.to_csv(place / "x.csv", index=False)
config = RunConfig.of(data=str(place / "x.csv"), hidden=(4,), latent=2, epochs=1,
                   validation_particles=2)
train_run(config, place / "trained", device="cpu", progress=False)
# What is finished is written after every chunk: every save can be the last.
unfinished._SECONDS_BETWEEN = -1.0
# Nothing is saved while step sizes are found, which would take most of the time.
pilot._WARM_UP, pilot._TRANSITIONS = 2, 4
# Those that keep what is unfinished, and one that does not; the others take long.
kept = ("decomposition", "evidence", "rate_distortion")
diagnoses.DIAGNOSES = [entry for entry in diagnoses.DIAGNOSES if entry.name in kept]

def evaluate(run):
    # Four chunks.
    estimator = ImportanceSampling(100, rows=1500)
    return evaluate_run(run, estimator=estimator, file=place / "x.csv", progress=False).mean

def evaluate_shards(run):
    estimator = Sharded(ImportanceSampling(20), 2)
    settings = {"file": place / "x.csv", "engine": InProcess(1), "progress": False}
    return evaluate_run(run, estimator=estimator, **settings).mean

def diagnose(run):
    settings = DiagnosisSettings(particles=50, rate_data=2, temperatures=4, chains=4)
    found = diagnose_run(run, settings, limit=4)
    write_diagnosis(found, run.folder, "killed")
    return found["evidence"].mean

def impute(run):
    found = impute_run(run, num_draws=2, num_particles=100)
    write_imputation(found, run.folder / "imputed.csv")
    return float(found.imputation.point.nansum())

def files(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}

for work, step in ((evaluate, 1), (evaluate_shards, 3), (diagnose, 3), (impute, 1)):
    names = ("whole", "again", "killed")
    whole, again, killed = (place / f"{work.__name__}-{name}" for name in names)
    for folder in (whole, again):
        shutil.copytree(place / "trained", folder)
    expected, clean = work(open_run(whole, device="cpu")), files(whole)
    # Only now, as what is imported for the first time makes changes of its own.
    changes = count_changes(lambda: work(open_run(again, device="cpu")))
    # From the last one on: what comes after a result is saved is not done again.
    for number in range(changes, 0, -step):
        shutil.copytree(place / "trained", killed)
        assert killed_before(number, lambda: work(open_run(killed, device="cpu"))), (work, number)
        assert work(open_run(killed, device="cpu")) == expected, (work, number)
        assert files(killed) == clean, (work, number, files(killed) ^ clean)
        shutil.rmtree(killed)
    print(work.__name__)
"""


def test_nothing_is_left_over(tmp_path, interpreter):
    """Whichever change of files was the last. In children of one process, which import once."""
    done = interpreter.run(SCRIPT, tmp_path, cwd=Path(__file__).parents[1])
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["evaluate", "evaluate_shards", "diagnose", "impute"]
