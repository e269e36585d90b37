"""Study folders as the package writes them, of runs that never took place."""

import math
from dataclasses import replace

import numpy as np
import torch

from ppl_vae.evidence import STAGES, Evidence
from ppl_vae.netcdf import save_netcdf
from ppl_vae.runs import HISTORY, MEASURES, PICTURES
from ppl_vae.store import write_sealed
from ppl_vae.studies import open_study, read_cell, study_from_mapping
from ppl_vae.studies._study import MANIFEST, write_plan
from ppl_vae.training import EpochRecord, History

OBJECTIVES = ("elbo", "stl", "iwae:5", "iwae:50", "dreg:50")
ALL_MEASURES = ("decomposition", "bound_curve", "pictures", "gradients", "sandwich")
COUNTS = (1, 2, 5, 10, 20, 50, 100, 200)


def write_study(
    folder,
    *,
    factors=None,
    seeds=5,
    num_data=200,
    epochs=40,
    failed=(),
    waiting=(),
    methods=("iwae",),
    measures=ALL_MEASURES,
    image_shape=(8, 8),
    effect=0.15,
    **plan,
):
    """Write a folder and open it; ``failed`` and ``waiting`` are (arm number, seed)."""
    study = study_from_mapping(
        {
            "question": "Which objective trains the best model of small digits?",
            "config": {"data": "digits", "latent": 8, "hidden": [64, 64]},
            "budget": {"epochs": epochs},
            "factors": factors or {"objective": list(OBJECTIVES)},
            "seeds": seeds,
            "evaluation": {"methods": list(methods)},
            "measures": list(measures),
            **plan,
        }
    )
    write_plan(study, folder)
    write_sealed(folder / MANIFEST, _manifest(study, image_shape))
    arms = list(study.arms)
    for planned in study.cells:
        cell = read_cell(planned, folder)
        number = arms.index(cell.arm)
        if (number, cell.seed) in waiting:
            continue
        rng = np.random.default_rng([number, cell.seed])
        # Later arms are better, with fewer gains each, and no two alike.
        level = -23 + effect * len(arms) * (1 - math.exp(-2 * number / len(arms)))
        level += 0.05 * rng.standard_normal()
        found = replace(
            cell,
            state="done",
            attempts=1,
            seconds=10 + 3 * number + rng.random(),
            epochs=epochs,
            updates=20 * epochs,
            evaluations=2000 * epochs * 3**number,
            kept_epoch=epochs - 10,
        )
        if (number, cell.seed) in failed:
            reason = "the loss is not finite at step 412: log p(x|z) of site x is nan"
            found = replace(found, state="failed", reason=reason, kept_epoch=None)
        cell.folder.mkdir(parents=True)
        (cell.folder / HISTORY).write_text(_history(rng, level, epochs).to_csv())
        if found.state == "done":
            first = cell.seed == study.seeds[0]
            paths = _write_results(found, study, rng, level, num_data, first, image_shape)
            found.done(methods={label: path.name for label, path in paths.items()})
        else:
            found.write()
    return open_study(folder)


def _manifest(study, image_shape):
    return {
        "created": "2026-01-02T03:04:05+00:00",
        "command": "ppl-vae study run objectives.yaml",
        "engine": "InProcess",
        "versions": {"python": "3.11.2", "torch": "2.6.0", "ppl_vae": "0.1.0"},
        "platform": "Linux-6.1-x86_64",
        "device": "cpu (x86_64)",
        "threads": 2,
        "git": {"revision": "0123456789abcdef0123", "dirty": False},
        "data": {
            "name": "digits",
            "sha256": "ab" * 32,
            "num_train": 1077,
            "num_valid": 360,
            "num_test": 360,
            "features": 64,
            "image_shape": None if image_shape is None else list(image_shape),
        },
        "seeds": list(study.seeds),
        "configs": {},
    }


def _history(rng, level, epochs):
    records = []
    for epoch in range(1, epochs + 1):
        bound = level - 1 - 30 * math.exp(-6 * epoch / epochs) + 0.1 * rng.standard_normal()
        records.append(
            EpochRecord(
                epoch=epoch, bound=bound, log_likelihood=bound + 8, kl={"z": 8.0},
                learning_rate=1e-3, seconds=0.2, validation=bound + 0.5, validation_error=0.2,
                updates=20 * epoch, evaluations=2000 * epoch,
            )
        )  # fmt: skip
    return History(records)


def _write_results(cell, study, rng, level, num_data, first, image_shape):
    shared, paths = np.random.default_rng(0).normal(0, 3, num_data), {}
    for method in study.methods:
        noise = rng.normal(0, 0.3, num_data)
        evidence = Evidence(
            log_prob=torch.tensor(level + shared + noise),
            standard_error=torch.full((num_data,), 0.05, dtype=torch.float64),
            effective_sample_size=torch.tensor(rng.uniform(20, 900, num_data)),
            num_particles=1000,
            direction="lower",
            method=method.label,
            seconds=1.0,
            **_automatic(rng, num_data, level),
        )
        paths[method.label] = cell.folder / f"{method.label}.nc"
        save_netcdf(evidence.to_datatree(), paths[method.label])
    summaries = _summaries(rng, level, first)
    kept = {name: summaries[name] for name in study.measures if name in summaries}
    write_sealed(cell.folder / MEASURES, kept)
    if first and "pictures" in study.measures:
        shape = 64 if image_shape is None else math.prod(image_shape)
        arrays = {"data": 10, "reconstruction": 10, "samples": 30}
        drawn = {name: rng.random((rows, shape), np.float32) for name, rows in arrays.items()}
        np.savez_compressed(cell.folder / PICTURES, **drawn)
    return paths


def _automatic(rng, num_data, level):
    """Doubt, stages and costs as an automatic estimate has them; levels differ in how hard."""
    hard = rng.random(num_data) < 0.2 + 0.1 * (level % 3)
    stage = np.where(hard, STAGES.index("annealing from the refined guide"), 2)
    stage[: num_data // 10] = 3
    doubt = np.where(hard, 0.04, 0.01) * rng.uniform(0.5, 1.5, num_data)
    values = {
        "bias": doubt / 2, "doubt": doubt, "stage": stage,
        "evaluations": np.where(hard, 20_000.0, 1_500.0),
    }  # fmt: skip
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}


def _estimate(value):
    return {"value": value, "monte_carlo_error": 0.01, "total_error": 0.2}


def _summaries(rng, level, first):
    count = int(rng.integers(5, 9))
    ratio = 0.5 + rng.random()
    summaries = {
        "decomposition": {
            "elbo": _estimate(level - 1.5),
            "log_likelihood": _estimate(level + 6.5),
            "kl": {"z": _estimate(8.0)},
            "active_units": {"z": {"count": count, "latent": 8, "standard_error": 0.1}},
            "num_data": 360,
            "num_particles": 100,
        },
        "bound_curve": {
            "bounds": {str(K): _estimate(level - 1.5 / K) for K in COUNTS},
            "extrapolation": {"limit": _estimate(level + 0.01), "lack_of_fit": 0.4},
            "notes": ["30% of the data have weights without a variance (Pareto k > 0.5)"],
        },
    }
    if first:
        summaries["gradients"] = {
            "rows": [
                {
                    "objective": "this", "num_particles": K, "group": group,
                    "signal_to_noise": {"value": ratio * K**power, "error": 0.02,
                                        "low": 0.8 * ratio * K**power,
                                        "high": 1.2 * ratio * K**power},
                }
                for group, power in (("phi", -0.5), ("theta", 0.5))
                for K in (1, 4, 16, 64)
            ],
            "slopes": [
                {"group": group, "slope": slope, "error": 0.03, "expected": slope}
                for group, slope in (("phi", -0.5), ("theta", 0.5))
            ],
        }  # fmt: skip
        gaps = [ratio * gap for gap in (1.2, 0.4, 0.1)]
        summaries["sandwich"] = {
            "num_data": 100,
            "temperatures": [75, 150, 300],
            "lower": [level - gap for gap in gaps],
            "lower_error": [0.02] * 3,
            "upper": [level + gap for gap in gaps],
            "upper_error": [0.02] * 3,
            "gap": [2 * gap for gap in gaps],
            "gap_error": [0.05, 0.03, 0.02],
        }
    return summaries
