"""Studies that are quick to carry out."""

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd

from ppl_vae.engines import Resources
from ppl_vae.runs import RunConfig
from ppl_vae.studies import Method, Place, Study, run_study

CONFIG = RunConfig.of(hidden=(8,), latent=2, epochs=3, batch_size=300, validation_particles=3)
STUDY = Study(
    config=CONFIG,
    factors={"objective": ("elbo", "iwae:2")},
    seeds=(0, 1),
    methods=(Method("iwae", {"particles": 10}),),
    limit=60,
    measures=("decomposition", "pictures"),
    resources=Resources(cpus=1),
)


def plan(**changes):
    """The small study with other values."""
    return replace(STUDY, **changes)


def carry_out(folder: Path, study=STUDY, **options):
    return run_study(study, folder, place=Place(device="cpu"), progress=False, **options)


def results_of(folder):
    """All numbers of a study that do not tell the time, by file."""
    results = pd.read_parquet(folder / "results.parquet")
    cells = pd.read_parquet(folder / "cells.parquet").drop(columns=["seconds", "attempts"])
    curves = pd.read_parquet(folder / "histories.parquet").query("quantity != 'seconds'")
    comparison = json.loads((folder / "comparison.json").read_text())
    return {
        "results": results,
        "cells": cells,
        "curves": curves.reset_index(drop=True),
        "comparison": comparison,
    }
