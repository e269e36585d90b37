"""The command line driven from Python."""

from ppl_vae.cli import main

SMALL = [
    "--epochs", "2", "--hidden", "8", "--latent", "2", "--batch-size", "400",
    "--validation-particles", "2",
]  # fmt: skip


def replaced(options, *typed):
    """Options that each have a value, those that are typed in place of them."""
    kept = [pair for pair in zip(options[::2], options[1::2], strict=True) if pair[0] not in typed]
    return [*(each for pair in kept for each in pair), *typed]


def run(capsys, *arguments):
    """Exit status, standard output, standard error."""
    status = 0
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as stop:
        status = stop.code
    out, err = capsys.readouterr()
    return status, out, err


def fails(capsys, *arguments, code=1):
    """The one line that a failing command leaves on standard error, besides what was read."""
    status, out, err = run(capsys, *arguments)
    assert status == code, err
    assert out == ""
    lines = [line for line in err.strip().splitlines() if not line.startswith(("data: ", "note: "))]
    assert len(lines) == 1, err
    assert lines[0].startswith("ppl-vae: error: ")
    return lines[0]
