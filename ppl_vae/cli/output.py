"""What commands print, and how they fail."""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any, NoReturn

import click


def show(text: str, values: dict[str, Any], as_json: bool) -> None:
    """Print the text, or the values as JSON."""
    click.echo(json.dumps(values, indent=2) if as_json else text)


def one_line(error: BaseException) -> str:
    """What an exception says, on one line, with the file it is about."""
    message = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    if isinstance(error, OSError) and error.strerror and error.filename:
        message = f"{error.filename}: {message}"
    return " ".join(message.split()) or type(error).__name__


def fail(message: str, code: int) -> NoReturn:
    """Print one line to the terminal and leave."""
    click.echo(f"ppl-vae: error: {message}", err=True)
    sys.exit(code)


def require_writable(folder: Path) -> None:
    """Fail before the work, not after it."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass
