"""Output of commands, and their failures in one line."""

import ast
import json
import logging
import re
import shlex
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import click

import ppl_vae as pv
from ppl_vae.files import printable

TRACEBACK = "PPL_VAE_TRACEBACK"
"""Variable of the environment with which a failure prints its traceback."""
_FORESEEN = (ValueError, TypeError, OSError, ImportError)
_LONGEST, _END = 1000, 200


_OPTIONS = {
    "such as Refinement() or LaplaceApproximation()": "by so many steps, or laplace",
    "refine=LaplaceApproximation()": "--refine laplace",
    "Enumeration()": "--method enumeration",
    "Quadrature()": "--method quadrature",
    # Before importance sampling, whose name is the end of its own.
    "AnnealedImportanceSampling()": "--method ais",
    "ImportanceSampling()": "--method iwae",
    "SequentialMonteCarlo()": "--method smc",
    "write study_template() there to start from": "ppl-vae study init writes one to start from",
    "start from study_template()": "ppl-vae study init writes one to start from",
    "make one with train_run": "make one with ppl-vae fit",
    "choose another folder, or bring the data": "give another --out FOLDER, or bring the data",
    "run the study into another folder": "run the study's file into another --out FOLDER",
    "run_study carries one out": "ppl-vae study run FILE carries one out",
    "run_study does the cell again": "ppl-vae study run FILE does the cell again",
    "seeds=N or levels={FACTOR: [LEVEL]}": "--seeds N or --level FACTOR=LEVEL",
    "give rows as valid, or noise a number": "give rows as --valid, or --noise a number",
    "give other rows, file=FILE": "give other rows, --data FILE",
    "those of load_dataset(FILE, columns={}), FILE being": "--data FILE, FILE being",
}
"""Advice of the library in Python, to the option that is typed for it."""
_KEYWORD = re.compile(
    r"\b(allow_missing|binarize|columns|data_root|decimal|drop|engine|guide|header|latent|likelihood|missing|model"
    r"|separator|thousands|trust)="
    r"""(True|"[^"\\]*"|'[^'\\]*'|\[[^][]*\]|\([^()]*\)|\{[^{}]*\})"""
)
"""Settings as keyword arguments, whose values are Python's literals."""
_OBJECTIVE = re.compile(r"\b(\w+)\((K(?:, \w+=\w+)*)\)")
"""An objective with K particles, in the form in which Python makes it."""
_CLASS = re.compile(r"\b[\w.()]+; of a run, ")
"""A class or a call that does what the setting of a run does which stands behind it."""


def in_options(message: str) -> str:
    """Rewrite the advice in a message of the library as options of the command line."""
    for python, option in _OPTIONS.items():
        message = message.replace(python, option)
    message = _OBJECTIVE.sub(_objective, _CLASS.sub("", message))
    # Keywords after the fixed phrases, some of which contain them.
    return _KEYWORD.sub(lambda found: _typed(found[1], found[2]) or found[0], message)


def _objective(found: re.Match[str]) -> str:
    """The name that is typed for an objective: ``TVO(K, num_terms=S)`` is ``tvo:K,num_terms=S``."""
    kinds = pv.objectives.OBJECTIVES
    name = next((name for name in kinds if kinds[name].__name__ == found[1]), None)
    return found[0] if name is None else f"{name}:{found[2].replace(' ', '')}"


def _typed(name: str, literal: str) -> str | None:
    """A keyword argument as an option; None if the value is none that can be typed."""
    try:
        value = ast.literal_eval(literal)
    except (ValueError, SyntaxError):
        return None
    option = f"--{name.replace('_', '-')}"
    if value is True:
        return option
    if isinstance(value, dict):
        value = [f"{key}={one}" for key, one in value.items()]
    text = value if isinstance(value, str) else ",".join(map(str, value))
    return f"{option} {shlex.quote(text)}" if text else None


def show(text: str, values: dict[str, Any], as_json: bool) -> None:
    """Print the text, or the values as JSON."""
    say(json.dumps(values, indent=2) if as_json else text)


def say(text: str, *, err: bool = False) -> None:
    """Print text, from wherever it comes, without what would steer the terminal."""
    # Names in a file may hold control characters, which move the cursor or hide text.
    click.echo(printable(text), err=err)


def opened(folder: Path, opening: dict[str, Any]) -> "pv.runs.Run":
    """Open a run; say it on standard error if it is not done, or has diverged."""
    run = pv.runs.open_run(folder, **opening)
    for line in filter(None, (run.unfinished, run.divergence)):
        say(line, err=True)
    return run


@contextmanager
def notices() -> Iterator[None]:
    """Print on standard error what the package logs and warns of, each once, in one line."""
    logger, handler = logging.getLogger("ppl_vae"), _Notices()
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    # Or handlers of the root logger would print each line a second time.
    logger.propagate = False
    try:
        with warnings.catch_warnings():
            warnings.showwarning = handler.show
            yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


class _Notices(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self._told: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Print a line that has not been printed yet."""
        about = "data" if record.name.startswith("ppl_vae.data") else "note"
        self._tell(about, record.getMessage())

    def show(self, message: Warning | str, *_place: Any, **_more: Any) -> None:
        """Print a warning, without the line of code that it came from, which nobody here wrote."""
        self._tell("warning", str(message))

    def _tell(self, about: str, text: str) -> None:
        line = " ".join(text.split())
        if line not in self._told:
            self._told.add(line)
            say(f"{about}: {in_options(line)}", err=True)


def one_line(error: BaseException) -> str:
    """Message of an exception on one line, with the file it is about."""
    message = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    if isinstance(error, OSError) and error.strerror and error.filename:
        message = f"{error.filename}: {message}"
    message = " ".join(message.split()) or type(error).__name__
    if len(message) <= _LONGEST:
        return message
    # What to do stands at the end.
    return f"{message[: _LONGEST - _END]} ... {message[-_END:]}"


def describe_error(error: BaseException) -> str:
    """Describe a failure in one line; one that was not foreseen with its place in the code."""
    if isinstance(error, _FORESEEN):
        return one_line(error)
    if isinstance(error, RecursionError):
        return "something is nested too deeply: is a file damaged?"
    # With torch loaded, or it cannot be torch's.
    if "torch" in sys.modules and pv.particles.is_out_of_memory(error):
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        return (
            f"out of memory: {first[:_END]}: take smaller chunks, batches or models, or another "
            "--device."
        )
    # The innermost frame: of a failure that nobody foresaw, the place is the best hint.
    frame = traceback.extract_tb(error.__traceback__)[-1]
    reason = f"{type(error).__name__}: {one_line(error)}"
    return (
        f"unexpected {reason} ({frame.filename}, line {frame.lineno}); {TRACEBACK}=1 in the "
        "environment prints all of it."
    )


def fail(message: str, code: int) -> NoReturn:
    """Print one line to the terminal and leave."""
    say(f"ppl-vae: error: {in_options(message)}", err=True)
    sys.exit(code)
