"""A process that reads damaged files with a bound on memory and time, and says what came of it."""

import io
import json
import resource
import signal
import sys
import time
import traceback
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from ppl_vae.arviz import load_evidence
from ppl_vae.cli import main
from ppl_vae.data import load_dataset
from ppl_vae.registry import build_estimator
from ppl_vae.runs import RunConfig, evaluate_run, open_run, train_run
from ppl_vae.studies import Method, Place, Study, open_study, read_study, run_study

from .mutations import chance_of, damaged_bytes, damaged_text, damaged_values

EXPECTED = (ValueError, TypeError, OSError)
SECONDS, BYTES = 10, 2 << 30


def prepare(folder):
    """A trained run, a study and data, all small."""
    config = RunConfig.of(hidden=(4,), latent=2, epochs=1, batch_size=600, validation_particles=2)
    run, _ = train_run(config, folder / "run", device="cpu", progress=False)
    evaluate_run(run, estimator=build_estimator("iwae", {"particles": 3}), limit=20, progress=False)
    study = Study(config, {"objective": ("elbo", "stl")}, seeds=(0,), limit=20, measures=(),
                  methods=(Method("iwae", {"particles": 3}),))  # fmt: skip
    run_study(study, folder / "study", place=Place(device="cpu"), progress=False)
    x = np.random.default_rng(0).normal(size=(40, 3)).astype("float32")
    np.save(folder / "x.npy", x)
    np.savez_compressed(folder / "x.npz", x=x)
    table = pd.DataFrame(x, columns=list("abc")).assign(label=["u", "v"] * 20)
    table.to_csv(folder / "x.csv", index=False)
    table.to_parquet(folder / "x.parquet")


def plan_of(folder):
    return json.loads((folder / "study" / "study.json").read_text())["plan"]


def read_settings(text):
    RunConfig.from_mapping(json.loads(text)).build_objective()


def kinds(folder):
    """Name to (file to damage, how, reader of the file's path)."""
    run, study = folder / "run", folder / "study"
    evidence = next(run.rglob("*.nc"))
    cell = next(study.rglob("run.json"))
    return {
        "checkpoint": (run / "checkpoint.safetensors", None, lambda _: open_run(run, device="cpu")),
        "config": (run / "config.json", "json", lambda _: open_run(run, device="cpu")),
        "history": (run / "history.csv", None, lambda _: open_run(run, device="cpu")),
        "evidence": (evidence, None, load_evidence),
        "study": (study / "study.json", "json", lambda _: open_study(study)),
        "cell": (cell, "json", lambda _: main(["study", "status", str(study)])),
        "plan": (folder / "plan.yaml", "plan", read_study),
        "settings": (folder / "settings.json", "settings", lambda p: read_settings(p.read_bytes())),
        "npy": (folder / "x.npy", None, load_dataset),
        "npz": (folder / "x.npz", None, load_dataset),
        "csv": (folder / "x.csv", None, lambda p: load_dataset(p, columns={})),
        "parquet": (folder / "x.parquet", None, lambda p: load_dataset(p, columns={})),
    }


def read_damaged(folder, name, number):
    """One damaged file read: None, or what is wrong with how that ended."""
    path, how, read = kinds(folder)[name]
    chance = chance_of(name, number)
    if how == "plan":
        before, content = None, damaged_text(plan_of(folder), chance)
    elif how == "settings":
        config = json.loads((folder / "run" / "config.json").read_bytes())["config"]
        before, content = None, json.dumps(damaged_values(config, chance)).encode()
    else:
        before = path.read_bytes()
        as_json = how == "json"
        content = (damaged_text(json.loads(before), chance) if as_json
                   else damaged_bytes(before, chance))  # fmt: skip
    path.write_bytes(content)
    out, began = io.StringIO(), time.process_time()
    try:
        limit_time(2 * SECONDS)
        with redirect_stdout(out), redirect_stderr(out):
            read(path)
        problem = None
    except EXPECTED as error:
        problem = f"several lines: {error!r:.300}" if "\n" in str(error).strip() else None
    except SystemExit as stop:
        text = out.getvalue().strip()
        problem = None if stop.code in (0, 1) and "unexpected" not in text else text[-400:]
    except BaseException as error:
        where = traceback.extract_tb(error.__traceback__)[-3:]
        places = " < ".join(f"{f.filename.rsplit('/', 1)[-1]}:{f.lineno}" for f in reversed(where))
        problem = f"{type(error).__name__}: {error!s:.200} at {places}"
    finally:
        limit_time(0)
        if before is not None:
            path.write_bytes(before)
    taken = time.process_time() - began
    if taken > SECONDS:
        problem = f"took {taken:.1f} s; {problem}"
    if "\x1b" in out.getvalue():
        problem = "printed an escape"
    if Path("ran").exists() or "evil" in sys.modules:
        problem = "ran code of the file"
    return problem


def limit_time(seconds):
    """Limit that of the processor, which a busy machine gives late; that of the clock to a wait."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, 50 * seconds)


def hang(_signal, _frame):
    raise KeyboardInterrupt("no end")


def work(folder, names, numbers):
    """What is wrong, by name and number."""
    torch.set_num_threads(1)
    for number in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(number, hang)
    found = {}
    for name in names:
        for number in numbers:
            problem = read_damaged(folder, name, number)
            if problem is not None:
                found[f"{name} {number}"] = problem
    return found


if __name__ == "__main__":
    here, first, last = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    if not (here / "x.npz").exists():
        prepare(here)
    limit = resource.getrlimit(resource.RLIMIT_AS)[1]
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + BYTES, limit))
    chosen = sys.argv[4:] or list(kinds(here))
    print("\n" + json.dumps(work(here, chosen, range(first, last))))
