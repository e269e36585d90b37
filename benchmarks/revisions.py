"""Time of log p(x) by an earlier revision of this project over that by this one.

Both have the model of the other benchmarks (784-200-200-50 and back, tanh, Bernoulli) with the same
weights and data, each in a process of its own, and take turns in a random order. Timed are
importance sampling with K = 5000 and the weighted run of annealed importance sampling, step sizes
found beforehand; where a revision compiles, what is compiled for one round serves all.

    git worktree add ../before 4b7776d
    python benchmarks/revisions.py ../before               # JSON on stdout, a table on stderr
    python benchmarks/revisions.py ../before --out FILE    # JSON in a file too

A package that the earlier revision needs and this one does not is found by PYTHONPATH.
"""

import argparse
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[1]
PARTICLES, DATA = 5000, 20
TEMPERATURES, CHAINS, LEAPFROG = 20, 16, 5
TASKS = {"evidence": DATA, "annealing-4": 4, "annealing-16": 16, "annealing-64": 64}


def serve(checkout: Path, name: str, quick: bool) -> None:
    """Run a task of one checkout once for each line of stdin; seconds and value to stdout."""
    sys.path[:0] = [str(checkout), str(checkout / "benchmarks")]
    import torch

    torch.set_num_threads(1)
    import ppl_vae

    if not Path(ppl_vae.__file__).is_relative_to(checkout):
        raise RuntimeError(f"ppl_vae is imported from {ppl_vae.__file__}, not from {checkout}")
    from common import make_vae

    vae, num_data = make_vae(torch.device("cpu"), seed=1), 2 if quick else TASKS[name]
    torch.manual_seed(0)
    x = torch.bernoulli((torch.rand(784) ** 3).expand(num_data, -1))
    with ExitStack() as stack:
        kind = evidence if name == "evidence" else annealing
        run = kind(vae, x, quick, stack)
        run(0)
        print(flush=True)
        for number, _ in enumerate(sys.stdin):
            wall, cpu = time.perf_counter(), time.process_time()
            value = run(1 + number)
            print(time.perf_counter() - wall, time.process_time() - cpu, value, flush=True)


def evidence(vae: Any, x: Any, quick: bool, stack: ExitStack) -> Callable[[int], float]:
    """Importance sampling; a later revision on programs that are open already."""
    from ppl_vae import evidence

    count = 10 if quick else PARTICLES
    estimator = evidence.ImportanceSampling(count)
    if not hasattr(estimator, "on"):
        return lambda seed: estimator(vae.model, vae.guide, x, seed=seed).mean
    from common import compiling, require_compiled

    from ppl_vae.particles import ChunkSize, Programs, evaluation

    look = stack.enter_context(evaluation(Programs(vae.model, vae.guide), x, ChunkSize(count)))

    def run(seed: int) -> float:
        with compiling(not quick):
            value: float = estimator.on(look, seed=seed).mean
        require_compiled("plain" if quick else "compiled", look)
        return value

    return run


def annealing(vae: Any, x: Any, quick: bool, stack: ExitStack) -> Callable[[int], float]:
    """The weighted run of annealing from the prior."""
    import torch

    from ppl_vae import evidence

    stack.enter_context(torch.no_grad())
    temperatures, leapfrog = (3, 1) if quick else (TEMPERATURES, LEAPFROG)
    ais = evidence.AnnealedImportanceSampling(temperatures, CHAINS, leapfrog, "prior")
    try:
        from ppl_vae.particles import ChunkSize, Programs, evaluation
    except ImportError:
        from ppl_vae.evidence.annealing.chunks import Streams  # type: ignore[import-not-found]

        annealer = ais.prepare(vae.model, vae.guide, x, Streams(0, 0, 0))
    else:
        from common import compiling

        size = ChunkSize.of_data(len(x))
        look = stack.enter_context(evaluation(Programs(vae.model, vae.guide), x, size))
        with compiling(not quick):
            annealer = ais.prepare(look, x, evidence.Streams(0, 0, 0))
            annealer.forward()
    return lambda _: float(annealer.forward()[0].mean())


class Revision:
    """A process that computes by one checkout."""

    def __init__(self, checkout: Path, name: str, quick: bool) -> None:
        self.values: list[float] = []
        options = ["--task", name, *(["--quick"] if quick else [])]
        self._process = subprocess.Popen(
            [sys.executable, __file__, checkout, *options],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        self._answer()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a revision ended with code {self._process.wait()}")
        return line

    def __call__(self) -> tuple[float, float]:
        """Seconds by the clock and of the processor."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        wall, cpu, value = map(float, self._answer().split())
        self.values.append(value)
        return wall, cpu

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def compare(checkout: Path, name: str, rounds: int, quick: bool) -> dict[str, Any]:
    """Time one task by both revisions."""
    import torch
    from common import Seconds, interleave, speedup, spread

    both = {"before": Revision(checkout, name, quick), "now": Revision(HERE, name, quick)}
    turns = {key: lambda each=each: Seconds(*each()) for key, each in both.items()}
    times = interleave({}, rounds, torch.device("cpu"), turns)
    for each in both.values():
        each.close()
    result: dict[str, Any] = {
        key: {
            "seconds": spread(times[key].wall, 1),
            "cpu_seconds": spread(times[key].cpu, 1),
            "mean_log_prob": sum(each.values) / len(each.values),
        }
        for key, each in both.items()
    }
    before, now = times["before"], times["now"]
    ratio = {"wall": speedup(before.wall, now.wall), "cpu": speedup(before.cpu, now.cpu)}
    return {"task": name, **result, "before_over_now": ratio}


def table(results: list[dict[str, Any]]) -> str:
    """The results for a person to read."""
    lines = [f"{'':14} {'before':>9} {'now':>9} {'before / now (CPU)':>22}"]
    for row in results:
        before, now = (row[key]["cpu_seconds"]["median"] for key in ("before", "now"))
        ratio = row["before_over_now"]["cpu"]
        interval = f"{ratio['median']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]"
        lines.append(f"{row['task']:14} {before:9.3f} {now:9.3f} {interval:>22}")
    return "\n".join(lines)


def main() -> None:
    """Parse the options, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", type=Path, help="checkout of the earlier revision")
    parser.add_argument("--rounds", type=int, default=15, help="runs of each task")
    parser.add_argument("--quick", action="store_true", help="see that it runs; times mean little")
    parser.add_argument("--out", type=Path, help="file for the JSON")
    parser.add_argument("--task", choices=TASKS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    checkout = options.before.resolve()
    if options.task is not None:
        serve(checkout, options.task, options.quick)
        return
    import torch
    from common import machine, write

    torch.set_num_threads(1)
    names = ("evidence", "annealing-4") if options.quick else TASKS
    rounds = 2 if options.quick else options.rounds
    results = [compare(checkout, name, rounds, options.quick) for name in names]
    print(table(results), file=sys.stderr)
    described = {"machine": machine(torch.device("cpu")), "before": revision(checkout)}
    write({"benchmark": "revisions", **described, "results": results}, options.out)


def revision(checkout: Path) -> str:
    """The commit that a checkout is at."""
    command = ["git", "-C", checkout, "rev-parse", "--short", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip()


if __name__ == "__main__":
    main()
