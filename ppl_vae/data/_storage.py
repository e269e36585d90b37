"""Folder of downloaded data sets, and downloads into it."""

import contextlib
import http.client
import importlib
import os
import sys
import urllib.error
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ppl_vae.files import make_folder, temporary_folder

DATASET_NAMES = ("digits", "mnist", "fashion-mnist", "kmnist", "omniglot", "binarized-mnist")
"""Names that ``load_dataset`` knows, in a module that is cheap to import."""
DOWNLOAD_ERRORS = (
    OSError, RuntimeError, EOFError, http.client.HTTPException, zlib.error, zipfile.BadZipFile,
)  # fmt: skip


def find_data_root(data_root: os.PathLike[str] | str | None = None) -> Path:
    """The folder of data sets: the one named, else PPL_VAE_DATA, else the user's cache folder."""
    chosen = data_root or os.environ.get("PPL_VAE_DATA") or _cache_folder()
    return Path(chosen).expanduser()


def _cache_folder() -> Path:
    """Folder in which the operating system keeps what can be downloaded again."""
    if sys.platform == "win32" and (local := os.environ.get("LOCALAPPDATA")):
        return Path(local, "ppl_vae", "ppl_vae", "Cache")
    if sys.platform == "darwin":
        return Path("~/Library/Caches/ppl_vae")
    # The XDG specification takes a variable that is empty for one that is not set.
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "ppl_vae")


def fetch(
    name: str, folder: Path, wanted: Sequence[str], download: Callable[[Path], object]
) -> None:
    """Download files or folders into a folder, all of them or none.

    The download goes to a temporary folder nearby and is moved when complete, so that one that
    breaks off leaves nothing. What is there already stays.

    Args:
        name: Name of the data set, for the message.
        folder: Where the files belong.
        wanted: Their names in it.
        download: Writes them to the temporary folder it is given.

    Raises:
        FileNotFoundError: If the download failed, or there is no place to put it.
    """
    try:
        make_folder(folder)
        # torchvision may print; stdout belongs to the user's results.
        with (
            temporary_folder(folder) as staging,
            contextlib.redirect_stdout(sys.stderr),
        ):
            download(staging)
            downloaded = {path.name: path for path in staging.rglob("*")}
            for file in wanted:
                if not (folder / file).exists():
                    # The staging folder lies within the target, on its file system: a move leaves
                    # no half file.
                    os.replace(downloaded[file], folder / file)
    except DOWNLOAD_ERRORS as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()  # it holds the connection
        cause = " ".join(str(error).split()) or type(error).__name__
        raise FileNotFoundError(
            f"data set {name!r} not found: looked for {', '.join(wanted)} in {folder}, and the "
            f"download failed ({cause}): put the files there, or set the environment variable "
            'PPL_VAE_DATA, or data_root="FOLDER", to a folder that has them'
        ) from error


def torchvision_dataset(name: str) -> Any:
    """A class of torchvision's, imported when something is to be downloaded.

    The import takes seconds, which no command should wait for whose data are there already.
    """
    return getattr(importlib.import_module("torchvision.datasets"), name)
