"""kill -9 while a run is evaluated, diagnosed or imputed: the next command leaves nothing over."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import os, random, signal, sys, time
from pathlib import Path
import numpy, pandas
import ppl_vae.evidence._loop as unfinished
from ppl_vae.evidence import ImportanceSampling
from ppl_vae.report import write_diagnosis, write_imputation
from ppl_vae.runs import RunConfig, diagnose_run, evaluate_run, impute_run, open_run, train_run

place, command = Path(sys.argv[1]), sys.argv[2]
draws = numpy.random.default_rng(0)
table = pandas.DataFrame(draws.normal(size=(60, 3)), columns=list("abc"))
table.iloc[::5, 1] = None
table.to_csv(place / "x.csv", index=False)
config = RunConfig.of(data=str(place / "x.csv"), hidden=(4,), latent=2, epochs=1,
                   validation_particles=2)
train_run(config, place / "run", device="cpu", progress=False)
# What is finished is written after every chunk: most kills are in the middle of a save.
unfinished._SECONDS_BETWEEN = 0.0

def evaluate(run):
    estimator = ImportanceSampling(2000, rows=2000)
    return evaluate_run(run, estimator=estimator, file=place / "x.csv", progress=False).mean

def diagnose(run):
    found = diagnose_run(run, limit=4, particles=500, rate_data=2, temperatures=10, chains=4)
    write_diagnosis(found, run.folder, "killed")
    return found["evidence"].mean

def impute(run):
    found = impute_run(run, num_draws=2, num_particles=2000)
    write_imputation(found, run.folder / "imputed.csv")
    return float(found.imputation.point.nansum())

work = {"evaluate": evaluate, "diagnose": diagnose, "impute": impute}[command]
began = time.monotonic()
import shutil
shutil.copytree(place / "run", place / "whole")
expected = work(open_run(place / "whole", device="cpu"))
took = time.monotonic() - began
random.seed(1)
for _ in range(3):
    child = os.fork()
    if not child:
        work(open_run(place / "run", device="cpu"))
        os._exit(0)
    time.sleep(random.uniform(0.0, took))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
assert work(open_run(place / "run", device="cpu")) == expected
left, clean = ({str(path.relative_to(place / name)) for path in (place / name).rglob("*")}
               for name in ("run", "whole"))
assert left == clean, left ^ clean
"""


@pytest.mark.parametrize("command", ["evaluate", "diagnose", "impute"])
def test_nothing_is_left_over(command, tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, str(tmp_path), command],
        capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
