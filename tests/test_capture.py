"""Graphs that stand for functions: what they see, what they draw, and what they refuse."""

import logging
import random
import re
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters
from torch._guards import TracingContext
from torch._inductor import config as inductor_config
from torch._inductor import cpu_vec_isa

from ppl_vae import capture
from ppl_vae._graphs import is_recording, lifted
from ppl_vae.capture import Captured, CaptureError


@pytest.fixture
def uncompiled(monkeypatch):
    """Graphs run as they are recorded: compiling takes seconds, and adds nothing here."""
    monkeypatch.setattr(capture, "compile_graph", lambda graph, inputs: graph)


def capture_of(function, x, held=()):
    return Captured(function, (x,), (x.flip(0) * 0.7,), list(held))


X = torch.linspace(0.1, 1.0, 12).reshape(6, 2)


@pytest.mark.usefixtures("uncompiled")
class TestAGraph:
    def test_sees_updates_in_place_and_draws_as_the_function_does(self):
        weight = torch.tensor([[1.0, 2.0]], requires_grad=True)

        def function(x):
            noise = torch.randn(3, len(x), 2)
            with torch.enable_grad():
                loss = ((x + noise) * weight).square().sum()
            return [loss.detach(), *torch.autograd.grad(loss, [weight])]

        replay = capture_of(function, X, [weight])
        for _ in range(3):
            torch.manual_seed(5)
            expected, after = function(X + 1), torch.rand(2)
            torch.manual_seed(5)
            for found, wanted in zip(replay(X + 1), expected, strict=True):
                assert torch.equal(found, wanted)
            assert torch.equal(torch.rand(2), after)
            with torch.no_grad():
                weight.mul_(-1.5)

    def test_leaves_parameters_buffers_and_random_states_as_they_were(self):
        norm, calls = nn.BatchNorm1d(2), []
        state = {name: value.clone() for name, value in norm.state_dict().items()}
        torch.manual_seed(2)
        # Python's own state moves here: beartype's checks draw from it.
        before = torch.get_rng_state(), np.random.get_state()[1]  # noqa: NPY002

        def function(x):
            calls.append(np.random.rand())  # noqa: NPY002
            return [norm(x).detach()]

        replay = capture_of(function, X, [*norm.parameters(), *norm.buffers()])
        assert torch.equal(torch.get_rng_state(), before[0])
        assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
        assert all(torch.equal(value, state[name]) for name, value in norm.state_dict().items())
        assert len(calls) == 3
        assert torch.equal(replay(X)[0], nn.BatchNorm1d(2)(X))
        # A batch norm's statistics move with each replay, as with each call.
        assert int(norm.num_batches_tracked) == 1
        torch.testing.assert_close(norm.running_mean, 0.1 * X.mean(0))

    @pytest.mark.parametrize(
        "number",
        [
            lambda x, w: random.random(),
            lambda x, w: np.random.rand(),  # noqa: NPY002
            lambda x, w: w.item(),
            lambda x, w: float(x.mean()),
            lambda x, w: torch.from_numpy(np.random.rand(2)).float(),  # noqa: NPY002
            lambda x, w: 2.0 if x.sum() > 0 else 3.0,
        ],
        ids=["random", "numpy", "parameter", "data", "array", "branch"],
    )
    def test_refuses_numbers_that_a_replay_would_hold_fixed(self, number):
        weight = nn.Parameter(torch.tensor(2.0))
        with pytest.raises(CaptureError, match=r"replay would not|read a number off a tensor"):
            capture_of(lambda x: [x * number(x, weight)], X, [weight])

    def test_refuses_a_state_that_no_buffer_holds(self):
        calls = []

        def function(x):
            calls.append(None)
            return [x * 2.0 if len(calls) < 3 else x * 3.0]

        with pytest.raises(CaptureError, match=re.escape("differs from the programs by 3.3e-01")):
            capture_of(function, X)

    def test_refuses_inputs_of_another_type(self):
        replay = capture_of(lambda x: [2 * x], X)
        with pytest.raises(ValueError, match=r"recorded at \[torch.float32\] was given \[torch.f"):
            replay(X.double())

    def test_refuses_other_operations(self):
        calls = []

        def function(x):
            calls.append(None)
            return [x.exp() if len(calls) == 1 else x.log()]

        with pytest.raises(CaptureError, match=r"aten\.exp.*, then aten\.log"):
            capture_of(function, X)


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("times", [1, 2, 5])
def test_a_function_that_is_applied_several_times(times):
    """To its own results, with further inputs and held tensors the same each time."""
    weight, draws = torch.tensor([[0.5, -1.0]]), torch.tensor([2.0, 3.0])

    def function_of(draws):
        def function(x, total, shift):
            x = torch.tanh(x) * weight + shift + draws + torch.rand_like(x)
            return x, total + x.sum(-1)

        return function

    inputs = X, torch.zeros(6), torch.full((6, 2), 0.25)
    others = [value + 1 for value in inputs]
    replay = Captured(function_of(draws), inputs, others, [weight], times=times)
    weight.mul_(-2)
    for held, graph in (
        (draws, replay),
        (-draws, replay.holding(function_of(-draws), inputs)),
    ):
        torch.manual_seed(3)
        x, total, shift = inputs
        for _ in range(times):
            x, total = function_of(held)(x, total, shift)
        torch.manual_seed(3)
        found = graph(*inputs)
        assert torch.equal(found[0], x)
        assert torch.equal(found[1], total)


def test_numbers_of_a_program_are_held_where_they_are_used():
    """Sending one to a GPU at every replay would wait for it; "meta" stands for a device here."""

    def function(x):
        total = torch.tensor([0.5, 2.0]).to("meta")
        total += x
        return [total * torch.as_tensor(3.0).to(x)]

    graph, held = lifted(capture._record(function, [torch.ones(2, device="meta")]))
    assert "_to_copy" not in graph.code
    assert {value.device.type for value in held} == {"meta"}
    # The literal itself stays: the program adds to a copy.
    (added,) = (n for n in graph.graph.nodes if n.target is torch.ops.aten.add_.Tensor)
    assert added.args[0].target is torch.ops.aten.clone.default


def test_a_compiled_graph_gives_the_function_s_numbers():
    """With dropout, a batch norm and draws, one of them in both precisions; compiled in earnest."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 2))

    def function(x):
        with torch.enable_grad():
            out = net(x) + torch.randn(6, 2) * torch.rand(6, 2)
            loss = (out * torch.bernoulli(x)).square().mean()
            gradients = torch.autograd.grad(loss, list(net.parameters()))
        return [torch.bernoulli(x.double()), loss.detach(), *gradients]

    held = [*net.parameters(), *net.buffers()]
    replay = capture_of(function, X, held)
    before = [value.detach().clone() for value in held]
    torch.manual_seed(5)
    expected, after = function(X), torch.rand(2)
    statistics = [value.clone() for value in net.buffers()]
    with torch.no_grad():
        for value, kept in zip(held, before, strict=True):
            value.copy_(kept)
    torch.manual_seed(5)
    for found, wanted in zip(replay(X), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    assert torch.equal(torch.rand(2), after)
    for found, wanted in zip(net.buffers(), statistics, strict=True):
        torch.testing.assert_close(found, wanted)


def test_a_graph_that_was_compiled_before_is_found_again():
    """As by the next seed of a study, in another process: its kernels need not be built again."""
    counted = counters["inductor"]

    def function(x):
        return [torch.randn(6, 2) * x.sin()]

    capture_of(function, X)
    before = counted["fxgraph_cache_hit"]
    replay = capture_of(function, X)
    assert counted["fxgraph_cache_hit"] == before + 1
    torch.manual_seed(3)
    (expected,) = function(X)
    torch.manual_seed(3)
    torch.testing.assert_close(replay(X)[0], expected)


def test_kernels_get_the_layout_that_they_were_compiled_for(monkeypatch):
    def strict(graph, inputs):
        strides = [value.stride() for value in inputs]

        def run(*given):
            assert [value.stride() for value in given] == strides
            return graph(*given)

        return run

    monkeypatch.setattr(capture, "compile_graph", strict)
    # Half of a network's outputs, as a guide's means are, and rows of their own.
    halves = torch.arange(24.0).reshape(6, 4)[:, :2], torch.arange(12.0).reshape(6, 2)

    def density(held):
        return lambda x: [(x * held).sum(-1)]

    for first, second in (halves, halves[::-1]):
        replay = capture_of(density(first), X)
        (found,) = replay.holding(density(second), [X])(X)
        assert torch.equal(found, (X * second).sum(-1))
        for given in halves:
            assert torch.equal(replay(given)[0], (given * first).sum(-1))
    # One number for all rows: what is recorded for it serves no rows of their own.
    one = capture_of(density(torch.ones(1, 1).expand(6, 2)), X)
    assert one.holding(density(halves[1]), [X]) is None


def test_without_a_compiler_the_graph_itself_is_replayed(monkeypatch):
    def fails(*arguments, **options):
        raise RuntimeError("no compiler\nfor many reasons")

    monkeypatch.setattr("torch._inductor.compile", fails)

    def function(x):
        # What suits a compiler, as the Bernoulli density's loop does, and what suits torch alone.
        return [x.exp().log() + 1 if is_recording() else x + 1]

    with pytest.warns(UserWarning, match=r"are replayed, none compiled: no compiler\.$"):
        replay = capture_of(function, X)
    for one in (replay, replay.holding(function, [X])):
        assert torch.equal(one(2 * X)[0], 2 * X + 1)
        assert "exp" not in one._code
    assert not is_recording()


def test_a_recording_that_fails_leaves_no_mark_of_it():
    def reads(x):
        assert is_recording()
        return [x + x.sum().item()]

    with pytest.raises(CaptureError):
        capture_of(reads, X)
    assert not is_recording()


def test_refuses_a_graph_that_takes_other_random_numbers(monkeypatch):
    """Torch 2.6 leaves out of a graph what is drawn and not used."""

    def without_draws(graph, inputs):
        drawn = graph.graph.find_nodes(op="call_function", target=torch.ops.aten.rand.default)
        for node in drawn:
            graph.graph.erase_node(node)
        graph.recompile()
        return graph

    def function(x):
        torch.rand(3)
        return [x + 1]

    monkeypatch.setattr(capture, "compile_graph", without_draws)
    with pytest.raises(CaptureError, match="takes other random numbers than the programs"):
        capture_of(function, X)


def test_where_torchs_cache_fails_it_compiles_without(monkeypatch):
    """As of version 2.6, whose cache counts what it finds in a place that is not open."""
    made = []

    def compiles(graph, inputs, options):
        made.append(TracingContext.try_get())
        if made[-1] is not None:
            raise RuntimeError("Cannot increment a metric outside of a MetricsContext")
        return graph

    monkeypatch.setattr("torch._inductor.compile", compiles)
    replay = capture_of(lambda x: [x + 1], X)
    assert [each is None for each in made] == [False, True]
    assert torch.equal(replay(2 * X)[0], 2 * X + 1)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="no oneDNN")
def test_what_torch_logs_of_cuda_is_no_news(monkeypatch, caplog):
    log = logging.getLogger("torch.utils.cpp_extension")

    def compiled(graph, inputs, *, options):
        log.warning("No CUDA runtime is found")
        return graph

    monkeypatch.setattr("torch._inductor.compile", compiled)
    capture_of(lambda x: [x + 1], X)
    assert not caplog.records
    log.warning("of somebody else's")
    assert len(caplog.records) == 1


def test_instructions_are_tried_where_those_that_the_processor_names_fail(monkeypatch):
    tried = []

    def compiled(graph, inputs, *, options):
        tried.append(options["cpp.vec_isa_ok"])
        if options["cpp.vec_isa_ok"]:
            raise RuntimeError("error: unrecognized command-line option -mavx512fp16")
        return graph

    monkeypatch.setattr("torch._inductor.compile", compiled)
    (found,) = capture_of(lambda x: [x + 1], X)(X)
    assert torch.equal(found, X + 1)
    assert tried == [True, True, None]
    # What the environment has set stands.
    tried.clear()
    with inductor_config.patch({"cpp.vec_isa_ok": False}):
        capture_of(lambda x: [x + 1], X)
    assert tried == [False]


@pytest.mark.skipif(sys.platform != "linux", reason="torch asks the processor on Linux")
def test_instructions_that_an_old_compiler_does_not_know_are_given_up(monkeypatch):
    """Torch keeps a set's answer as well as the list, which the second try must not go by."""
    old = type("Old", (cpu_vec_isa.VecAVX512,), {"check_build": lambda self, code: False})
    known = type("Known", (cpu_vec_isa.VecAVX2,), {"check_build": lambda self, code: True})
    monkeypatch.setattr(cpu_vec_isa, "supported_vec_isa_list", [old(), known()])
    monkeypatch.setattr(cpu_vec_isa, "x86_isa_checker", lambda: ["avx2", "avx512"])
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    taken = []

    def compiled(graph, inputs, *, options):
        with inductor_config.patch(options):
            taken.append([str(each) for each in cpu_vec_isa.valid_vec_isa_list()])
        if "avx512" in taken[-1]:
            raise RuntimeError("error: unrecognized command-line option -mavx512f")
        return graph

    monkeypatch.setattr("torch._inductor.compile", compiled)
    cpu_vec_isa.valid_vec_isa_list.cache_clear()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            capture_of(lambda x: [x + 1], X)
            # The next graph goes by what was found.
            capture_of(lambda x: [x + 2], X)
    finally:
        cpu_vec_isa.valid_vec_isa_list.cache_clear()
    assert taken == [["avx512", "avx2"]] * 2 + [["avx2"]] * 2


def test_the_product_of_onednn_is_defined_once():
    """As four threads ask for it at once, and a module that a notebook loads again."""
    code = """
import importlib
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
import torch
from ppl_vae import _graphs

together = Barrier(4)

def operation(i):
    together.wait()
    return _graphs._linear()

with ThreadPoolExecutor(4) as threads:
    list(threads.map(operation, range(4)))
x, weight, bias = torch.randn(600, 64), torch.randn(200, 64), torch.randn(200)
found = importlib.reload(_graphs)._linear()(x, weight, bias)
torch.testing.assert_close(found, torch.nn.functional.linear(x, weight, bias))
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="oneDNN stands in for MKL")
@pytest.mark.parametrize(("rows", "products"), [(511, 0), (512, 3)])
def test_products_of_many_rows_are_onednn_s(monkeypatch, rows, products):
    """Both layers of the way there, and the one gradient of rows; not those of weights."""
    graphs = []

    def keep(graph, inputs, options):
        graphs.append(graph)
        return graph

    monkeypatch.setattr("torch._inductor.compile", keep)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(160, 210), nn.Tanh(), nn.Linear(210, 160, bias=False))

    def function(x):
        with torch.enable_grad():
            loss = net(x).square().mean()
            return [loss.detach(), *torch.autograd.grad(loss, list(net.parameters()))]

    x = torch.rand(rows, 160)
    replay = capture_of(function, x, list(net.parameters()))
    targets = [str(node.target) for node in graphs[0].graph.nodes]
    assert targets.count("ppl_vae.linear.default") == products
    assert targets.count("aten.mm.default") + targets.count("aten.addmm.default") == 5 - products
    for found, wanted in zip(replay(x), function(x), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-8)
