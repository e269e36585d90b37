"""Every code block of README and the pages runs as printed, or says here why it cannot.

What the text of a page takes for granted (a trained model, a study's folder) stands in ``BEFORE``,
small; numbers of epochs, particles and replicates in a block are reduced by ``SMALLER``.
"""

import re
import shlex
from pathlib import Path

import click
import pytest
import torch
from studies.small import carry_out

import ppl_vae as pv
from ppl_vae.cli import cli

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", *sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("docs/*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)

SMALLER = [
    (r"epochs=\d+", "epochs=1"),
    (r"Sampling\(1000\)", "Sampling(10)"),
    (r"num_temperatures=50", "num_temperatures=5"),
    (r"valid, limit=20", "valid, limit=4"),
    (r"full_covariance=True, flow=True", "full_covariance=True"),
    (r"rate_distortion\(vae\.model, vae\.guide, x_test\[:20\]\)",
     "rate_distortion(vae.model, vae.guide, x_test[:2], "
     "annealing=pv.AnnealedImportanceSampling(10, 2))"),
    (r"DReG\(16\)\]\}", "DReG(16)]}, replicates=20"),
]  # fmt: skip
# Blocks that need what is not here, by a line of theirs.
ELSEWHERE = {
    "RayEngine": "starts Ray: tests/engines runs it",
    "plot_ppc_tstat": "needs a long diagnosis: tests/arviz/test_diagnostics_trees.py",
    "plot_ecdf_pit": "needs a long diagnosis: tests/arviz/test_diagnostics_trees.py",
}
OWN_TESTS = {"docs/extending.md": "tests/test_docs.py runs its blocks, each in a module of its own"}


def blocks(page, *languages):
    text = (ROOT / page).read_text()
    return [code for language, code in BLOCK.findall(text) if language in languages]


@pytest.fixture(scope="module")
def before(tmp_path_factory):
    """What pages take for granted: a small model, data, evidence, a study's folder."""
    folder = tmp_path_factory.mktemp("docs")
    carry_out(folder / "study")
    data = pv.load_dataset("digits").binarized("static")
    torch.manual_seed(0)
    vae = pv.VAE(
        pv.StandardNormalPrior(2),
        pv.BernoulliDecoder(pv.MLP(2, [4], data.features)),
        pv.DiagonalNormalEncoder(pv.MLP(data.features, [4], 4)),
    )
    x = data.test[:6]
    estimates = [pv.ImportanceSampling(20)(vae.model, vae.guide, x, seed=seed) for seed in range(4)]
    names = dict(zip(["elbo_0", "elbo_1", "iwae_0", "iwae_1"], estimates, strict=True))
    given = {"vae": vae, "x": x, "x_test": x, "evidence": estimates[0], **names}
    return folder, {**given, "a": estimates[0], "b": estimates[2]}


WITH_PYTHON = [page for page in PAGES if blocks(page, "python") and page not in OWN_TESTS]


# That blocks run is looked at, and not how good their numbers are.
@pytest.mark.usefixtures("quick_noise", "short_pilot")
# Of a library that calls another one.
@pytest.mark.filterwarnings("ignore:The inplace keyword")
@pytest.mark.parametrize("page", WITH_PYTHON)
def test_python_blocks_run_in_order(page, before, monkeypatch):
    folder, given = before
    monkeypatch.chdir(folder)
    namespace = dict(given)
    for block in blocks(page, "python"):
        if any(line in block for line in ELSEWHERE):
            continue
        for long, short in SMALLER:
            block = re.sub(long, short, block)
        exec(compile(block, page, "exec"), namespace)


def command_lines(page):
    """Lines that begin with ppl-vae, with their continuations, without comments."""
    for block in blocks(page, "", "sh", "shell", "bash", "console"):
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith("ppl-vae "):
                yield shlex.split(line, comments=True)[1:]
    text = (ROOT / page).read_text()
    for line in re.findall(r"`ppl-vae ([a-z][^`\n]*)`", text):
        yield shlex.split(line)


def parse(arguments):
    """Let click read a command's options, without carrying it out."""
    command, path = cli, []
    while isinstance(command, click.Group) and arguments and arguments[0] in command.commands:
        path.append(arguments[0])
        command, arguments = command.commands[arguments[0]], arguments[1:]
    if isinstance(command, click.Group):
        assert arguments[:1] in ([], ["--help"], ["--version"], ["COMMAND"]), arguments
        return
    known = {name for option in command.params for name in option.opts} | {"--help"}
    typed = {word.partition("=")[0] for word in arguments if word.startswith("--")}
    assert typed <= known, f"ppl-vae {' '.join(path)} has no {', '.join(typed - known)}"
    if "--config" not in typed and not {"...", "RUN", "COMMAND"} & set(arguments):
        required = [] if "--out" in typed or path != ["fit"] else ["--out", "run"]
        missing = any(p.required for p in command.params if isinstance(p, click.Argument))
        if missing and not [word for word in arguments if not word.startswith("-")]:
            return
        command.make_context(" ".join(path), [*arguments, *required])


@pytest.mark.parametrize("page", [page for page in PAGES if [*command_lines(page)]])
def test_command_lines_have_the_options_that_they_show(page):
    for arguments in command_lines(page):
        parse(arguments)


def test_of_the_command_test():
    for wrong in (["fit", "--epoch", "3"], ["evaluate", "run", "--particles", "many"], ["fitt"]):
        with pytest.raises((AssertionError, click.UsageError)):
            parse(wrong)
