"""Everything that needs a GPU, in one command of at most 8 minutes and without network.

Runs the CUDA tests, then the benchmarks step, evidence and annealing, each in a process and within
a limit of its own, and gives one JSON. Wheels that ``wheels.py`` has gathered stand in for packages
that the machine lacks. The file is written after each part, so that a run cut short leaves
what it has.

    python benchmarks/device.py --out FILE
    python benchmarks/device.py --device cpu --quick    # see that it runs: the tests skip
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).parent
ROOT = HERE.parent
KEPT_CHARACTERS = 6000


class Part(NamedTuple):
    """A command and the seconds that it may take; ``result`` is the file that it writes, if any."""

    command: list[str]
    limit: float
    result: bool = True


def parts(device: str, quick: bool) -> dict[str, Part]:
    """What is run, in order; together below 8 minutes."""

    def benchmark(name: str, *settings: str) -> list[str]:
        given = ["--quick"] if quick else list(settings)
        return [sys.executable, str(HERE / f"{name}.py"), "--device", device, *given]

    # Other versions than those of the suite may warn of other things.
    tests = [
        sys.executable, "-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider", "-W",
        "default", "--durations=5", str(ROOT / "tests" / "test_cuda.py"),
    ]  # fmt: skip
    return {
        "tests": Part(tests, 200, result=False),
        "step": Part(benchmark("step", "--rounds", "20"), 180),
        "evidence": Part(benchmark("evidence", "--rounds", "5"), 50),
        "annealing": Part(benchmark("annealing", "--rounds", "3"), 40),
    }


def unpack(wheels: Path, into: Path) -> list[str]:
    """Unpack the wheels of packages that are not there; return their names."""
    unpacked = []
    for wheel in sorted(wheels.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            tops = {name.split("/")[0].removesuffix(".py") for name in archive.namelist()}
            modules = {top for top in tops if top.isidentifier()}
            if any(importlib.util.find_spec(module) is None for module in modules):
                archive.extractall(into)
                unpacked.append(wheel.name)
    return unpacked


def run(part: Part, environment: dict[str, str], folder: Path) -> dict[str, Any]:
    """Run a part: how it ended, how long it took, its result or the end of what it printed."""
    file = folder / "result.json"
    file.unlink(missing_ok=True)
    command = [*part.command, "--out", str(file)] if part.result else part.command
    start = time.perf_counter()
    with (folder / "output.txt").open("w+", encoding="utf-8") as output:
        # A session of its own, so that what a part has started ends with it.
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, text=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL if part.result else output, stderr=output,
            start_new_session=True,
        )  # fmt: skip
        try:
            status: int | str = process.wait(part.limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait()
            status = f"stopped after {part.limit:g} s"
        output.seek(0)
        printed = output.read()
    return {
        "status": status,
        "seconds": round(time.perf_counter() - start, 1),
        "result": json.loads(file.read_text(encoding="utf-8")) if file.exists() else None,
        "output": printed[-KEPT_CHARACTERS:],
    }


def main() -> None:
    """Parse the options, run, write; exit with 1 if a part has failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", help="cuda; cpu to try the script")
    parser.add_argument("--wheels", type=Path, default=HERE / "wheels", help="folder of wheels")
    parser.add_argument("--quick", action="store_true", help="see that it runs; times mean little")
    parser.add_argument("--only", nargs="+", help="names of parts")
    parser.add_argument("--out", type=Path, help="file for the JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        packages, folder = Path(name) / "packages", Path(name)
        unpacked = unpack(options.wheels, packages)
        path = [str(packages), str(ROOT)]
        sys.path[:0] = path
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(path)}
        # Only now: they import what the wheels bring.
        from common import machine

        from ppl_vae.devices import resolve_device

        result = {
            "benchmark": "device",
            "machine": machine(resolve_device(options.device)),
            "unpacked": unpacked,
            "parts": {},
        }
        for name, part in parts(options.device, options.quick).items():
            if options.only and name not in options.only:
                continue
            ended = run(part, environment, folder)
            result["parts"][name] = ended
            print(f"{name}: {ended['status']} in {ended['seconds']} s", file=sys.stderr)
            print(ended["output"], file=sys.stderr, flush=True)
            if options.out is not None:
                options.out.parent.mkdir(parents=True, exist_ok=True)
                options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))
    sys.exit(any(ended["status"] != 0 for ended in result["parts"].values()))


if __name__ == "__main__":
    main()
