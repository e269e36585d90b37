"""One task after the other, in this process."""

import pytest
import torch

from engines.work import double, fail, leave, numbers
from ppl_vae.engines import InProcess, Outcome, Task
from ppl_vae.engines._task import failed


def test_values_in_order():
    found = list(InProcess().run([Task("a", double, (1,)), Task("b", double, ("x",))]))
    assert found == [Outcome("a", 2), Outcome("b", "xx")]


def test_an_exception_is_an_outcome_and_stops_nothing():
    tasks = [Task("a", fail, ("one\n two",)), Task("b", leave), Task("c", double, (3,))]
    first, second, third = InProcess().run(tasks)
    assert first.error == "ValueError: one two"
    assert "in fail" in first.traceback
    assert "raise ValueError(message)" in first.traceback
    assert first.value is None
    assert second.error == "SystemExit: enough"
    assert third == Outcome("c", 6)


def test_an_interruption_passes_through():
    done = []

    def interrupt():
        raise KeyboardInterrupt

    tasks = [Task("a", double, (1,)), Task("b", interrupt), Task("c", done.append, (1,))]
    engine = InProcess(cpus=2).run(tasks)
    before = torch.get_num_threads()
    assert next(engine).value == 2
    with pytest.raises(KeyboardInterrupt):
        next(engine)
    assert done == []
    assert torch.get_num_threads() == before


def test_tasks_are_taken_one_at_a_time():
    taken = []

    def tasks():
        for number in range(1_000_000):
            taken.append(number)
            yield Task(str(number), double, (number,))

    engine = InProcess().run(tasks())
    assert taken == []
    next(engine), next(engine)
    assert taken == [0, 1]
    engine.close()
    assert taken == [0, 1]


def test_threads_are_set_in_a_task_and_put_back():
    before = torch.get_num_threads()
    engine = InProcess(cpus=before + 1).run([Task("a", numbers, (0,))] * 2)
    for outcome in engine:
        assert outcome.value[1] == before + 1
        assert torch.get_num_threads() == before, "whoever takes outcomes has threads of its own"
    (outcome,) = InProcess().run([Task("a", numbers, (0,))])
    assert outcome.value[1] == before


def test_no_cpus():
    with pytest.raises(ValueError, match="InProcess needs cpus >= 1, or None, got 0"):
        InProcess(0)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("a\n  b"), "ValueError: a b"),
        (KeyError("name"), "KeyError: 'name'"),
        (MemoryError(), "MemoryError"),
    ],
)
def test_a_reason_is_one_line(error, line):
    assert failed("a", error).error == line


def test_a_reason_is_short():
    found = failed("a", ValueError("x" * 10_000)).error
    assert len(found) == 500
    assert found.endswith("x ...")
