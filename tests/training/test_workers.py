"""Two processes train the model that one trains."""

import json
import os
import re
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch.distributed as dist
from engines import work

from ppl_vae.objectives import OBJECTIVES
from ppl_vae.training import Workers

COUPLED = {"MMD", "InfoVAE", "BetaTC"}
"""Objectives whose terms are of pairs of data of a batch, whatever their arguments."""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What both processes say, in the order of their ranks."""
    folder = tmp_path_factory.mktemp("together")
    # A store of this process at a port that the system chose and nobody can take, as torchrun's.
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    with ExitStack() as stack:
        started = []
        for rank in range(2):
            variables = {
                "RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": store.port, "TORCHELASTIC_USE_AGENT_STORE": True,
                "OMP_NUM_THREADS": 1,
            }  # fmt: skip
            process = subprocess.Popen(
                [sys.executable, Path(__file__).with_name("together.py"), folder],
                env=os.environ | {name: str(value) for name, value in variables.items()},
                stdout=stack.enter_context((folder / f"{rank}.txt").open("w")),
                stderr=subprocess.STDOUT,
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            started.append(process)
        # Where one fails, the other would wait for it.
        work.wait_for(lambda: any(p.poll() for p in started) or all_ended(started), 3000)
        codes = [process.poll() for process in started]
    said = [(folder / f"{rank}.txt").read_text() for rank in range(2)]
    assert codes == [0, 0], "\n".join(said)
    return [
        json.loads((folder / f"{rank}.json").read_text()) | {"end": said[rank].splitlines()[-1]}
        for rank in range(2)
    ]


def all_ended(processes):
    return all(process.poll() is not None for process in processes)


def test_the_process_group_is_left_before_python_ends(found):
    """A thread of gloo that lets go of a tensor afterwards aborts the process."""
    assert [worker["end"] for worker in found] == ["joined at the end: False"] * 2


def test_gradients_are_those_of_one_process(found):
    """In double precision, so that what is left is rounding."""
    errors = found[0]["gradients_of_every_objective"]["errors"]
    names = {repr_.partition("(")[0] for repr_ in errors}
    assert names == {build.__name__ for build in OBJECTIVES.values()} - COUPLED
    assert max(errors.values()) < 1e-12


def test_objectives_that_couple_the_data_of_a_batch_are_refused(found):
    refused = found[0]["gradients_of_every_objective"]["refused"]
    assert all(
        "and a worker has a share of each batch: train in one" in m for m in refused.values()
    )
    assert sorted(name.partition("(")[0] for name in refused) == [
        "AnalyticELBO", "BetaTC", "InfoVAE", "MMD", "STL", "TVO",
    ]  # fmt: skip
    shaped = {name: text for name, text in refused.items() if "kl=" in name}
    assert all("takes the mean KL of a batch" in text for text in shaped.values())


@pytest.mark.parametrize(
    "case",
    ["torch", "svi", "alternating", "semi-amortised", "everything", "evaluations", "dropout",
     "moving buffer", "compiled", "semi-amortised graphs"],
)  # fmt: skip
def test_training_is_that_of_one_process(found, case):
    part = "compiled" if case in ("compiled", "semi-amortised graphs") else "fits"
    for worker in found:
        result = worker[part][case]
        assert result["error"] < 1e-12
        assert result["alike"]
        ours, theirs = result["histories"]
        for mine, wanted in zip(ours, theirs, strict=True):
            assert mine[:2] == wanted[:2], "updates and decoder evaluations"
            assert [value is None for value in mine] == [value is None for value in wanted]
            for value, other in zip(mine[2:], wanted[2:], strict=True):
                assert value is None or value == pytest.approx(other, rel=1e-8)


def test_workers_stop_early_together_and_one_of_them_is_called_back(found):
    first, second = (worker["patience"] for worker in found)
    assert first["stopped"]
    assert {**first, "calls": 0} == {**second, "calls": 0}
    assert (first["calls"], second["calls"]) == (4, 0)


def test_each_reads_its_rows_alone(found):
    """Of batches of 14, 14 and 13 data."""
    assert [worker["reads"] for worker in found] == [20, 21]


def test_draws_by_rejection_leave_one_model(found):
    assert [worker["sphere"] for worker in found] == [True, True]


def test_one_process_goes_on_from_two_and_two_from_one(found):
    for worker in found:
        for differences in worker["resumed"].values():
            assert max(differences) < 1e-9


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("not finite", "NonFiniteError: update 1 .*The datum is row 35 of the training data"),
        ("raises", "ValueError: a row is too large"),
        ("batch of one", "ValueError: batches of 1 data cannot be shared by 2 workers: give a lar"),
        ("batch norm", "ValueError: BatchNorm1d takes means over a batch, and a worker has"),
        ("aggressive", "ValueError: step AggressiveStep decides by the mean bound and the mutual"),
        ("own step", "ValueError: step OwnStep takes no gradient by Step.differentiate"),
    ],
)
def test_failures_are_the_same_line_in_all(found, case, message):
    first, second = (worker["failures"][case] for worker in found)
    assert first == second
    assert re.search(message, first), first


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (0, "workers must be 1 or more, got 0"),
        (3, r"3 workers are 3 processes, and here is 1: start them by --engine ray --workers 3"),
    ],
)
def test_processes_that_are_not_there(size, message, monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(ValueError, match=message):
        Workers.joined(size)


def test_alone_by_itself():
    alone = Workers.joined(1)
    assert alone.is_first
    assert alone.share_of(10) is None
    assert alone.from_first(lambda: 3) == 3
