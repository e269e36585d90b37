"""kill -9 while a run is evaluated, diagnosed or imputed: the next command leaves nothing over."""

SCRIPT = """
import os, random, shutil, signal, sys, time
from pathlib import Path
import numpy, pandas
import ppl_vae.evidence._loop as unfinished
import ppl_vae.evidence.annealing._pilot as pilot
import ppl_vae.runs._diagnose as diagnoses
from ppl_vae.evidence import ImportanceSampling
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
# What is finished is written after every chunk: most kills are in the middle of a save.
unfinished._SECONDS_BETWEEN = 0.0
# Nothing is saved while step sizes are found, which would take most of the time.
pilot._WARM_UP, pilot._TRANSITIONS = 2, 4
# Those that keep what is unfinished, and one that does not; the others take long.
kept = ("decomposition", "evidence", "rate_distortion")
diagnoses.DIAGNOSES = [entry for entry in diagnoses.DIAGNOSES if entry.name in kept]

def evaluate(run):
    estimator = ImportanceSampling(2000, rows=2000)
    return evaluate_run(run, estimator=estimator, file=place / "x.csv", progress=False).mean

def diagnose(run):
    settings = DiagnosisSettings(particles=500, rate_data=2, temperatures=10, chains=4)
    found = diagnose_run(run, settings, limit=4)
    write_diagnosis(found, run.folder, "killed")
    return found["evidence"].mean

def impute(run):
    found = impute_run(run, num_draws=2, num_particles=2000)
    write_imputation(found, run.folder / "imputed.csv")
    return float(found.imputation.point.nansum())

random.seed(1)
for work in (evaluate, diagnose, impute):
    whole, killed = (place / f"{work.__name__}-{name}" for name in ("whole", "killed"))
    for folder in (whole, killed):
        shutil.copytree(place / "trained", folder)
    began = time.monotonic()
    expected = work(open_run(whole, device="cpu"))
    took = time.monotonic() - began
    for _ in range(3):
        child = os.fork()
        if not child:
            work(open_run(killed, device="cpu"))
            os._exit(0)
        time.sleep(random.uniform(0.0, took))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert work(open_run(killed, device="cpu")) == expected, work
    left, clean = ({str(path.relative_to(folder)) for path in folder.rglob("*")}
                   for folder in (killed, whole))
    assert left == clean, left ^ clean
    print(work.__name__)
"""


def test_nothing_is_left_over(tmp_path, interpreter):
    """One process for all three: its children need not import anything again."""
    done = interpreter.run(SCRIPT, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["evaluate", "diagnose", "impute"]
