"""The command line ``ppl-vae``: names to classes, options to arguments; no logic.

Nothing heavy is imported here: ``ppl_vae`` loads its parts on first use, so that help is instant.
"""

import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import click

import ppl_vae as pv
from ppl_vae.cli._encode import encode, reconstruct
from ppl_vae.cli._evaluate import evaluate
from ppl_vae.cli._fit import compare_command, fit_command
from ppl_vae.cli._names import objectives, parts
from ppl_vae.cli._output import TRACEBACK, describe_error, fail, notices, say
from ppl_vae.cli._run import diagnose, gradients_command, impute_command, sample
from ppl_vae.cli._study import study


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(pv.__version__)
def cli() -> None:
    """Train variational autoencoders in Pyro and estimate their log p(x), with standard errors.

    All log-probabilities are in nats per datum. Commands go on where an interrupted one stopped.
    """


for command in (
    fit_command, evaluate, diagnose, encode, reconstruct, impute_command, sample, compare_command,
    study, gradients_command, objectives, parts,
):  # fmt: skip
    cli.add_command(command)


STOPPED = "stopped; the same command goes on from the last checkpoint."


@contextmanager
def _interruptible(stopped: threading.Event) -> Iterator[None]:
    """Note an interruption beside raising it: torch's C code turns some into errors of its own."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        stopped.set()
        raise KeyboardInterrupt

    # A caller's own handler stays, and threads cannot set one.
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler or (
        threading.current_thread() is not threading.main_thread()
    ):
        yield
        return
    signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; every failure is one line and a non-zero exit.

    A failure that was not foreseen says so, and where it is; with PPL_VAE_TRACEBACK set, all of it.
    """
    stopped = threading.Event()
    try:
        with notices(), _interruptible(stopped):
            # click's own mode would print usage errors in several lines.
            cli.main(args=arguments, prog_name="ppl-vae", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        say(error.format_message())
        sys.exit(2)
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "ppl-vae"
        fail(f"{error.format_message()} See: {command} --help", code=2)
    except (click.Abort, KeyboardInterrupt):
        fail(STOPPED, code=130)
    # A reader such as head has closed the pipe: there is nobody left to tell.
    except BrokenPipeError:
        sys.exit(1)
    except Exception as error:
        if stopped.is_set():
            fail(STOPPED, code=130)
        if os.environ.get(TRACEBACK):
            traceback.print_exc()
        fail(describe_error(error), code=1)
