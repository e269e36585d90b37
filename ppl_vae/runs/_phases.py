"""Learning curves of phases of training before the last, in a run's folder."""

from pathlib import Path

from ppl_vae.runs._origin import PHASES
from ppl_vae.training import History


def read_phases(folder: Path) -> dict[str, History]:
    """Learning curves of phases of training before the last, by name, in order."""
    files = sorted((folder / PHASES).glob("*.csv"))
    return {file.stem: History.from_csv(file.read_text()) for file in files}
