"""Advice of the library, as the command line prints it."""

import math
import pickle
import re

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import ppl_vae as pv
from ppl_vae.cli._output import in_options
from ppl_vae.evidence import Enumeration, Quadrature
from ppl_vae.names import ValuesError
from ppl_vae.objectives._base import SCORE_FUNCTION

from .command import SMALL, fails, run


def model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(5), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x)


@pytest.mark.parametrize(
    ("estimator", "advice"),
    [
        (Enumeration(), "take --method iwae, or --method quadrature for continuous latents."),
        (Quadrature(), "take --method iwae or --method ais."),
    ],
)
def test_other_estimators_are_named_as_they_are_typed(estimator, advice):
    with pytest.raises(ValueError, match=r"take ImportanceSampling\(\)") as refused:
        estimator(model, None, torch.zeros(3))
    assert in_options(str(refused.value)).endswith(advice)
    # Each is what the command line makes of it, and it takes what was refused.
    for name in re.findall(r"--method (\w+)", advice):
        assert type(pv.registry.build_estimator(name)).__name__ in str(refused.value)


def test_objectives_are_named_as_they_are_typed():
    advice = ", ".join(SCORE_FUNCTION)
    typed = in_options(f"use {advice}, or ELBO(K).")
    assert typed == "use reinforce:K, vimco:K, rws:K, tvo:K,num_terms=S, or elbo:K."
    # As they are written in Python, these are objectives of that name.
    made = [eval(each, {**vars(pv.objectives), "K": 4, "S": 3}) for each in advice.split(", ")[:3]]
    assert [type(each).__name__ for each in made] == ["Reinforce", "VIMCO", "RWS"]
    assert in_options("a function(K) of yours") == "a function(K) of yours"


CSV = "a,b\n" + "\n".join(f"{i / 7:.3f},{(i * i) % 11}" for i in range(60)) + "\n"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (
            "x.npy",
            [[0.5, math.nan]] * 3,
            "missing or non-finite value(s), the first in row 1, column",
        ),
        ("x.npy", [[0.5, math.inf]] * 3, "missing or non-finite value(s)"),
        ("x.csv", CSV.replace(",9\n", ",\n"), "column 'b'"),
        ("x.csv", CSV.replace(",9\n", ",red\n"), "column 'b'"),
        ("x.csv", CSV.replace(",9\n", ",9,9\n"), "not a readable table"),
    ],
)
def test_rows_for_a_run_are_not_told_to_take_options_of_training(
    name, content, said, tmp_path, capsys
):
    """How values are read was settled by fit: evaluate and its like have none of its options."""
    (tmp_path / "train.csv").write_text(CSV)
    folder = tmp_path / "run"
    settings = ["--data", tmp_path / "train.csv", "--likelihood", "normal", "--out", folder]
    assert run(capsys, "fit", *settings, *SMALL)[0] == 0
    path = tmp_path / name
    path.write_text(content) if name == "x.csv" else np.save(path, np.array(content))
    for command in ("evaluate", "encode", "reconstruct"):
        line = fails(capsys, command, folder, "--data", path)
        assert said in line
        assert line.endswith("write them as in the training data, or leave the rows out.")
        assert "--" not in line


def test_a_likelihood_that_does_not_take_rows_advises_no_other_one(tmp_path, capsys):
    folder, x = tmp_path / "run", np.random.default_rng(0).integers(0, 2, (60, 2))
    np.save(tmp_path / "bits.npy", x)
    settings = ["--data", tmp_path / "bits.npy", "--binarize", "none", "--out", folder]
    assert run(capsys, "fit", *settings, *SMALL)[0] == 0
    np.save(tmp_path / "x.npy", np.full((3, 2), 0.5))
    line = fails(capsys, "evaluate", folder, "--data", tmp_path / "x.npy")
    assert line.endswith(
        "rows are not such as the model was trained on: a Bernoulli likelihood takes data in "
        "{0, 1}, got 0.5"
    )


def test_a_class_and_its_name_are_each_advised_where_they_can_be_given(tmp_path, capsys):
    """A model of one's own has no argument ``likelihood``; the command line has no class."""
    x = torch.full((3, 2), 0.5)
    vae = pv.VAE(
        pv.StandardNormalPrior(1),
        pv.BernoulliDecoder(pv.MLP(1, [], 2)),
        pv.DiagonalNormalEncoder(pv.MLP(2, [], 2)),
    )
    with pytest.raises(ValueError, match="likelihood takes data in") as refused:
        pv.fit(vae.model, vae.guide, pv.ELBO(), x, epochs=1, progress=False, device="cpu")
    message = str(refused.value)
    assert message.endswith(
        'binarise the data (torch.bernoulli(x); of a run, binarize="static" or binarize="dynamic"),'
        ' or take another likelihood (NormalDecoder; of a run, likelihood="normal").'
    )
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((60, 2)))
    arguments = ["--data", tmp_path / "x.npy", "--likelihood", "bernoulli", "--binarize", "none"]
    assert fails(capsys, "fit", *arguments, "--out", tmp_path / "run").endswith(
        "binarise the data (--binarize static or --binarize dynamic), or take another likelihood "
        "(--likelihood normal)."
    )


def test_advised_decoders_take_what_was_refused():
    """The class that a message names, where it takes other values."""
    z, zero = torch.zeros(2, 1), torch.zeros(2, 2)
    with pytest.raises(ValueError, match=r"that takes 0 and 1 \(ContinuousBernoulliDecoder; of"):
        pv.BetaDecoder(pv.MLP(1, [], 4))(z).log_prob(zero)
    assert pv.ContinuousBernoulliDecoder(pv.MLP(1, [], 2))(z).log_prob(zero).isfinite().all()
    for decoder in (pv.PoissonDecoder, pv.ContinuousBernoulliDecoder):
        with pytest.raises(ValueError, match=r"\(NormalDecoder; of a run, likelihood="):
            decoder(pv.MLP(1, [], 2))(z).log_prob(zero - 0.5)
    normal = pv.NormalDecoder(pv.MLP(1, [], 2), scale=1.0)
    assert normal(z).log_prob(zero - 0.5).isfinite().all()


def test_an_error_of_values_survives_pickling():
    error = pickle.loads(pickle.dumps(ValuesError("file: no number", "give one")))
    assert (str(error), error.problem) == ("file: no number: give one.", "file: no number")


def test_another_model_is_advised_as_the_interface_has_it(tmp_path, capsys):
    settings = {"data": "digits", "model": "sparse:codes=10", "epochs": 1}
    with pytest.raises(ValueError, match=r'more, or take model="autoencoder"\.$'):
        pv.runs.train_run(pv.runs.RunConfig.of(**settings), tmp_path / "run")
    line = fails(capsys, "fit", "--model", "sparse:codes=10", "--out", tmp_path / "run")
    assert line.endswith("more, or take --model autoencoder.")
