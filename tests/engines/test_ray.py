"""Tasks on a cluster of several nodes, all on this machine; one of them is killed."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest
import torch
from cli.command import SMALL
from studies.small import CONFIG, carry_out, plan
from studies.test_study import same

from engines import work
from ppl_vae.cli import main
from ppl_vae.engines import InProcess, Outcome, RayEngine, Task
from ppl_vae.evidence import ImportanceSampling, Sharded
from ppl_vae.runs import RunConfig, evaluate_run, open_run, train_run
from ppl_vae.runs._evaluate import _device_of
from ppl_vae.studies import open_study

ray = pytest.importorskip("ray")
from ray.cluster_utils import Cluster  # noqa: E402

# A dead node is noticed after seconds instead of half a minute; a slow one is not taken for dead.
QUICK = {"health_check_initial_delay_ms": 500, "health_check_period_ms": 400,
         "health_check_timeout_ms": 10_000, "health_check_failure_threshold": 5}  # fmt: skip


@pytest.fixture(scope="module")
def cluster():
    """A head with 2 CPUs, and whatever nodes a test adds."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    head = {"num_cpus": 2, "include_dashboard": False, "_system_config": QUICK}
    started = Cluster(initialize_head=True, head_node_args=head)
    handler = signal.getsignal(signal.SIGTERM)
    ray.init(started.address, log_to_driver=False, logging_level="CRITICAL")
    yield started
    ray.shutdown()
    started.shutdown()
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture
def add_node(cluster):
    """Adds nodes for one test."""
    yield cluster.add_node
    for node in list(cluster.worker_nodes):
        cluster.remove_node(node)
    assert work.wait_for(lambda: sum(node["Alive"] for node in ray.nodes()) == 1)


def run(tasks, **settings):
    return list(RayEngine(**settings).run(tasks))


def by_name(outcomes):
    return {outcome.name: outcome for outcome in outcomes}


@pytest.mark.usefixtures("cluster")
class TestOutcomes:
    def test_are_those_of_the_engine_in_process(self):
        tasks = [Task(str(seed), work.numbers, (seed,)) for seed in range(6)]
        threads = 1
        there, here = run(tasks, cpus=threads), list(InProcess(threads).run(tasks))
        assert by_name(there) == by_name(here)

    def test_threads_are_the_cpus(self):
        (found,) = run([Task("a", work.numbers, (0,))], cpus=2)
        assert found.value[1] == 2
        assert [found] == list(InProcess(2).run([Task("a", work.numbers, (0,))]))

    def test_an_exception_is_an_outcome_and_not_tried_again(self, tmp_path):
        tasks = [Task("a", work.fail, ("one\n two",)), Task("b", work.leave)]
        tasks.append(Task("c", work.double, (3,)))
        found = by_name(run(tasks))
        assert found["a"].error == "ValueError: one two"
        assert "raise ValueError(message)" in found["a"].traceback
        assert found["a"].attempts == 1
        assert found["b"].error == "SystemExit: enough"
        assert found["c"] == Outcome("c", 6)

    def test_a_task_that_cannot_be_sent_or_brought_back(self):
        tasks = [Task("a", work.double, (work.lock(),)), Task("b", work.lock)]
        found = by_name(run([*tasks, Task("c", work.double, (3,))]))
        assert found["a"].error == "TypeError: cannot pickle '_thread.lock' object"
        assert found["a"].attempts == 0
        assert "cannot pickle '_thread.lock' object" in found["b"].error
        assert found["b"].attempts == 1
        assert found["c"] == Outcome("c", 6)

    def test_work_where_this_process_works(self, tmp_path, monkeypatch):
        (tmp_path / "beside.py").write_text("def answer():\n    return 42\n")
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend(str(tmp_path))
        from beside import answer

        first, second = sorted(run([Task("a", work.here), Task("b", answer)]), key=lambda o: o.name)
        assert second.value == 42
        process, folder, gpus = first.value
        assert process != os.getpid()
        assert folder == str(tmp_path)
        assert gpus == "", "a task that asks for no GPU sees none"

    def test_as_they_finish(self, tmp_path):
        """The first of them ends when the outcomes of the others have been given."""
        tasks = [Task("long", work.after, (tmp_path / "given", "long", "bcd"))]
        tasks += [Task(name, work.note, (tmp_path, name)) for name in "bcd"]
        for outcome in RayEngine().run(tasks):
            work.append(tmp_path / "given", outcome.name)
        assert work.lines(tmp_path / "given")[-1] == "long"

    def test_an_evaluation_in_parts(self, tmp_path):
        config = RunConfig.of(
            hidden=(8,), latent=2, epochs=1, batch_size=400, validation_particles=2
        )
        train_run(config, tmp_path / "here", progress=False)
        # Of its own, as an evaluation that is there is read and not made again.
        shutil.copytree(tmp_path / "here", tmp_path / "there")
        found = [
            evaluate_run(
                open_run(tmp_path / run),
                estimator=Sharded(ImportanceSampling(20), 3),
                engine=engine,
                limit=50,
                progress=False,
            )
            for engine, run in ((InProcess(2), "here"), (RayEngine(cpus=2), "there"))
        ]
        assert torch.equal(found[0].log_prob, found[1].log_prob)
        assert torch.equal(found[0].standard_error, found[1].standard_error)

    def test_a_study_has_the_numbers_of_the_one_in_process(self, tmp_path):
        small = plan(config=CONFIG.changed(epochs=1), limit=20, measures=("decomposition",))
        carry_out(tmp_path / "here", small)
        carry_out(tmp_path / "there", small, engine=RayEngine(cpus=1))
        assert same(tmp_path / "here", tmp_path / "there")
        assert open_study(tmp_path / "there").manifest["engine"] == "RayEngine"
        assert {cell.attempts for cell in open_study(tmp_path / "there").cells} == {1}

    def test_a_comparison_as_typed(self, tmp_path):
        """The numbers of the one in process; what is done is not done again by another engine."""
        typed = ["compare", "--objective", "elbo", "--objective", "stl", "--seeds", "1", *SMALL]
        typed += ["--particles", "5", "--limit", "20", "--device", "cpu", "--cpus", "1"]
        here, there, ray = tmp_path / "here", tmp_path / "there", ["--engine", "ray"]
        for folder, engine in ((here, []), (there, ray)):
            main([*typed, *engine, "--out", str(folder)])
        assert same(here, there)
        manifest = open_study(there).manifest
        assert (manifest["engine"], manifest["threads"]) == ("RayEngine", 1)
        main([*typed, "--out", str(there)])
        assert {cell.attempts for cell in open_study(there).cells} == {1}


@pytest.mark.usefixtures("cluster")
class TestFlow:
    def test_tasks_are_taken_as_there_is_room(self):
        taken = []

        def tasks():
            for number in range(1_000_000):
                taken.append(number)
                yield Task(str(number), work.double, (number,))

        engine = RayEngine().run(tasks())
        assert taken == []
        for count in range(1, 30):
            next(engine)
            assert len(taken) <= count + 4, "twice as many as the cluster has CPUs"
        engine.close()
        assert len(taken) < 40

    def test_never_more_at_once_than_cpus(self, tmp_path):
        """By what tasks of 2 CPUs note of their beginnings and ends, whenever it is looked at."""
        tasks = [Task(str(n), work.enter_and_leave, (tmp_path / "notes", n)) for n in range(6)]
        run(tasks, cpus=2)
        notes = work.lines(tmp_path / "notes")
        entered, left = notes[::2], notes[1::2]
        assert entered == [note.replace("left", "entered") for note in left]
        assert sorted(left) == [f"left-{n}" for n in range(6)]

    def test_closing_cancels_what_is_under_way(self, tmp_path, monkeypatch):
        # One whose worker is still importing misses the interruption, and is ended by force.
        monkeypatch.setattr("ppl_vae.engines._ray_engine._GENTLE", 2.0)
        tasks = [Task("a", work.double, (1,))]
        tasks += [Task(str(n), work.note, (tmp_path, str(n), 600)) for n in range(5)]
        engine = RayEngine().run(tasks)
        assert next(engine).value == 2
        assert work.wait_for(lambda: work.lines(tmp_path / "begun"))
        engine.close()
        assert work.wait_for(lambda: ray.available_resources().get("CPU") == 2)
        assert work.lines(tmp_path / "done") == []

    def test_what_goes_wrong_with_the_tasks_themselves_is_raised(self):
        def tasks():
            yield Task("a", work.double, (1,))
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            list(RayEngine().run(tasks()))


@pytest.mark.usefixtures("cluster")
class TestDeath:
    def test_a_dead_worker_is_replaced_but_not_for_ever(self, tmp_path):
        once, always = tmp_path / "once", tmp_path / "always"
        tasks = [Task("a", work.die, (once, 1)), Task("b", work.die, (always, 99))]
        found = by_name(run([*tasks, Task("c", work.double, (1,))], retries=1))
        assert found["a"] == Outcome("a", "alive", attempts=2)
        assert found["b"].error.startswith("WorkerCrashedError: The worker died unexpectedly")
        assert found["b"].attempts == 2
        assert work.lines(always) == ["x", "x"]
        assert found["c"].value == 2

    def test_a_node_is_killed_in_the_middle(self, add_node, tmp_path):
        doomed, _ = add_node(num_cpus=1), add_node(num_cpus=1)
        process = doomed.all_processes["raylet"][0].process
        raylet = process.pid
        begun, done, killed = (tmp_path / name for name in ("begun", "done", "killed"))
        victims = set()

        def hanging():
            return work.on(done, raylet) and work.on(begun, raylet) - work.on(done, raylet)

        def kill():
            victims.update(work.wait_for(hanging))
            process.kill()
            # A process that nobody waited for looks alive to its workers.
            process.wait()
            killed.touch()

        killer = threading.Thread(target=kill)
        killer.start()
        names = [str(number) for number in range(20)]
        found = run(Task(name, work.cell, (tmp_path, name, raylet)) for name in names)
        killer.join()
        assert victims, "the node was killed with tasks on it"
        assert not [outcome.error for outcome in found if outcome.error]
        assert sorted(outcome.value for outcome in found) == sorted(names), "nothing is lost"
        assert Counter(work.names(done)) == Counter(names), "nothing is done twice"
        again = {outcome.name for outcome in found if outcome.attempts > 1}
        assert victims <= again, "they were done elsewhere"
        assert not again & work.on(done, raylet), "what was done there was not started again"
        assert {name for name, count in Counter(work.names(begun)).items() if count > 1} <= again


@pytest.mark.usefixtures("cluster")
class TestRoom:
    @pytest.mark.parametrize("settings", [{"cpus": 3}, {"gpus": 1}, {"gpus": 0.5}])
    def test_a_task_that_no_node_could_take(self, settings):
        with pytest.raises(ValueError, match=r"no node .*nodes of 2 CPUs and 0 GPUs\): ask for"):
            run([Task("a", work.double, (1,))], **settings)

    def test_parts_of_a_gpu_and_its_loss(self, cluster, add_node, tmp_path, monkeypatch):
        monkeypatch.setattr("ppl_vae.engines._ray_engine._HOMELESS", 1.0)
        node = add_node(num_cpus=2, num_gpus=1)
        tasks = [Task(str(n), work.here) for n in range(2)]
        tasks.append(Task("c", work.note, (tmp_path, "c", 600)))
        engine = RayEngine(gpus=0.5).run(tasks)
        assert [next(engine).value[2] for _ in range(2)] == ["0", "0"]
        cluster.remove_node(node, allow_graceful=False)
        with pytest.raises(TimeoutError, match=r"nodes were lost: a task asks for 1 CPUs and 0.5"):
            next(engine)

    def test_another_cluster_than_this_process_is_connected_to(self):
        with pytest.raises(
            ValueError, match=r"is connected to the Ray cluster at \S+, not at 1\.2"
        ):
            run([], address="1.2.3.4:5")
        assert run([], address="auto") == []


SCRIPT = """
import os, signal, sys
sys.path.append(sys.argv[1])
from engines import work
from ppl_vae.engines import RayEngine, Task
# Where these tests are started in the background, interrupts are ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
handler = signal.getsignal(signal.SIGTERM)
if "ray" in sys.modules:
    raise SystemExit("ray was imported before it was asked for")
seconds = {"a": 0, "b": 0, "c": 600, "d": 600}
tasks = [Task(name, work.note, (sys.argv[2], name, seconds[name])) for name in seconds]
try:
    for outcome in RayEngine().run(tasks):
        print(outcome.value, flush=True)
except KeyboardInterrupt:
    print("interrupted")
import ray
print(ray.is_initialized(), signal.getsignal(signal.SIGTERM) == handler,
      os.environ.get("RAY_USAGE_STATS_ENABLED"))
"""


def test_a_cluster_of_its_own_is_started_in_silence_and_ctrl_c_leaves_nothing_running(tmp_path):
    """In another process, as this one may be connected to the cluster above."""
    command = [sys.executable, "-W", "error", "-c", SCRIPT, Path(__file__).parents[1], tmp_path]
    environment = {n: value for n, value in os.environ.items() if not n.startswith("RAY_")}
    settings = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, start_new_session=True, **settings) as process:
        # A task that has ended is not one that has been told of: wait for what is told.
        told = [process.stdout.readline() for _ in range(2)]
        work.wait_for(lambda: len(work.lines(tmp_path / "begun")) >= 3)
        os.killpg(process.pid, signal.SIGINT)
        try:
            out, err = process.communicate(timeout=600)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    assert sorted(told) == ["a\n", "b\n"]
    assert out == "interrupted\nFalse True None\n"
    assert err == ""
    # Workers end by themselves once the node that they serve is gone.
    work.wait_for(lambda: not processes_of(process.pid))
    assert processes_of(process.pid) == []
    assert sorted(work.names(tmp_path / "done")) == ["a", "b"]


def processes_of(session):
    """Those of a session that still run, by their states and command lines.

    One that has ended and waits for its parent to read its status (state Z) does not run: where
    the parent is gone, that is left to the system's first process, which may take its time.
    """
    found = subprocess.run(
        ["ps", "-o", "stat=", "-o", "args=", "--sid", str(session)],
        capture_output=True,
        text=True,
        check=False,
    )
    return [line for line in found.stdout.splitlines() if not line.startswith("Z")]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cpus": 0}, r"cpus >= 0\.01, whole above 1, got 0"),
        ({"cpus": 1.5}, "whole above 1, got 1.5"),
        ({"gpus": -1}, "gpus >= 0, whole above 1, got -1"),
        ({"cpus": float("inf")}, "got inf"),
        ({"retries": -1}, "retries >= 0, got -1"),
        ({"address": "ray://head:10001"}, "outside of the cluster and its file system"),
        ({"address": "head"}, "is host:port or auto, got 'head'"),
        ({"address": ":6379"}, "is host:port or auto, got ':6379'"),
    ],
)
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises(ValueError, match=message):
        RayEngine(**settings)


def test_nobody_answers(monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    # Held, so that nobody else takes the port, and not listened at.
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{held.getsockname()[1]}"
        message = rf"no Ray cluster answers at {address} \(.*refused"
        with pytest.raises(ConnectionError, match=message):
            run([], address=address)


def test_ray_is_not_there(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"pip install 'ppl_vae\[ray\]'"):
        RayEngine()


def test_workers_compute_where_they_are_granted_a_place():
    here, engines = torch.device("cuda"), [RayEngine(gpus=0.5), RayEngine(), InProcess()]
    assert [_device_of(engine, here).type for engine in engines] == ["cuda", "cpu", "cuda"]
