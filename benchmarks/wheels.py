"""Gather the wheels that a machine without network lacks, for ``device.py`` to unpack there.

Pure Python, for Python 3.12, in a folder that git ignores. What is compiled (torch, numpy, scipy,
pandas, h5py) must be there already; pyarrow, torchvision and scikit-learn need not be.

    python benchmarks/wheels.py              # into benchmarks/wheels/
"""

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
FOLDER = HERE / "wheels"
CONSTRAINTS = HERE.parent / "constraints.txt"
MOST_MEGABYTES = 40
# Dependencies of the package, of its tests, and what these import in turn.
NAMES = (
    "pyro-ppl", "pyro-api", "opt-einsum", "tqdm", "jaxtyping", "wadler-lindig", "xarray",
    "arviz-base", "arviz-stats", "xarray-einstats", "lazy-loader", "platformdirs", "h5netcdf",
    "click", "jinja2", "ruamel-yaml", "packaging", "typing-extensions", "python-dateutil", "six",
    "pytest", "pluggy", "iniconfig", "pygments", "beartype",
)  # fmt: skip


def main() -> None:
    """Download, and say how much it is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--into", type=Path, default=FOLDER, help="folder of the wheels")
    options = parser.parse_args()
    subprocess.run(
        [
            sys.executable, "-m", "pip", "download", "--quiet", "--no-deps",
            "--only-binary=:all:", "--python-version", "3.12", "--platform", "any",
            "--constraint", CONSTRAINTS, "--dest", options.into, *NAMES,
        ],
        check=True,
    )  # fmt: skip
    wheels = sorted(options.into.glob("*.whl"))
    megabytes = sum(wheel.stat().st_size for wheel in wheels) / 2**20
    print(f"{len(wheels)} wheels, {megabytes:.1f} MB, in {options.into}")
    if megabytes > MOST_MEGABYTES:
        sys.exit(f"that is more than the {MOST_MEGABYTES} MB that may travel: shorten NAMES.")


if __name__ == "__main__":
    main()
