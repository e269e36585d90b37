"""The update that a run ended with because it was not finite, made again."""

import os
from pathlib import Path

from ppl_vae.runs.config import RunConfig
from ppl_vae.runs.run import read_config
from ppl_vae.training import NON_FINITE, NonFiniteError, replay_non_finite


def replay_run(
    folder: str | os.PathLike[str],
    *,
    data_root: Path | None = None,
    device: str = "auto",
    trust: bool = False,
) -> NonFiniteError | None:
    """Make the update again at which the run in a folder stopped.

    Args:
        folder: Of the run; it holds ``non-finite.safetensors`` then.
        data_root: Folder of the data sets: the model is built for the data.
        device: Where to compute; another device than then has other random numbers.
        trust: Take classes from outside of this package, whose code then runs.

    Returns:
        What the run ended with; None if the update is finite here.

    Raises:
        FileNotFoundError: If the folder holds no run, or none that ended so.
        ValueError: If a file is damaged.
    """
    folder = Path(folder)
    config = RunConfig.from_mapping(read_config(folder)["config"], trust=trust)
    if not (folder / NON_FINITE).is_file():
        raise FileNotFoundError(f"{folder} holds no {NON_FINITE}: no update of it was not finite.")
    objective, _ = config.objects()
    vae = config.build_vae(config.load(data_root))
    return replay_non_finite(
        folder / NON_FINITE,
        vae.model,
        vae.guide,
        objective,
        step=config.step,
        clip_norm=config.clip_norm,
        device=device,
    )
