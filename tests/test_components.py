"""Components by name, by class path, from files: what is built, what a mistake is told."""

import json
import re
from pathlib import Path
from typing import Literal

import pytest
import torch

from ppl_vae.components import MODEL_CONTEXT, Kind, class_path
from ppl_vae.data import load_dataset
from ppl_vae.priors import LearnedNormalPrior, StandardNormalPrior
from ppl_vae.registry import KINDS, MODEL_KINDS
from ppl_vae.runs import RunConfig


class Widened(torch.nn.Module):
    """A prior with arguments of every kind."""

    def __init__(
        self,
        latent: int,
        width: float,
        kind: Literal["round", "square"] = "round",
        sizes: tuple[int, ...] = (3,),
        *,
        learned: bool = False,
        data: torch.Tensor | None = None,
    ) -> None:
        super().__init__()
        if width <= 0:
            raise ValueError(f"width must be positive, got {width}.")
        self.given = {
            "latent": latent, "width": width, "kind": kind, "sizes": sizes, "learned": learned,
            "data": data,
        }  # fmt: skip


KNOWN = Kind(
    "prior", {"normal": StandardNormalPrior, "widened": Widened}, torch.nn.Module, MODEL_CONTEXT
)
PATH = f"{__name__}:Widened"


@pytest.mark.parametrize(
    "spec",
    [
        "widened:2,square,[4,5],learned=true",
        "widened:2,learned=true,sizes=[4,5],kind=square",
        f"{PATH}:2.0,square,[4,5],learned=true",
        {
            "class_path": PATH,
            "init_args": {"width": 2, "kind": "square", "sizes": [4, 5], "learned": True},
        },
        {
            "class_path": PATH.replace(":", "."),
            "init_args": {"width": "2", "kind": "square", "sizes": "[4, 5]", "learned": "true"},
        },
    ],
    ids=str,
)
def test_all_ways_to_write_one_part(spec):
    part = KNOWN.parse(spec)
    built = part(latent=7, data=None, features=9)
    assert built.given == {
        "latent": 7, "width": 2.0, "kind": "square", "sizes": (4, 5), "learned": True, "data": None,
    }  # fmt: skip
    assert isinstance(built.given["width"], float)
    # Written out in full, through a file, it is the same again.
    again = KNOWN.parse(json.loads(json.dumps(part.as_mapping())))
    assert again(latent=7, data=None).given == built.given


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("widend", "unknown prior 'widend': did you mean 'widened'"),
        ("widened", "width"),
        ("widened:x", "width cannot be 'x'. Widened takes width: float, kind: "),
        ("widened:1,triangle", "kind cannot be 'triangle'"),
        ("widened:1,round,[2],true", "argument 'true': this one needs its name"),
        ("widened:1,width=2", "width is given twice"),
        ("widened:1,colour=red", "unknown argument 'colour': known: width, kind, sizes, learned"),
        ("normal:3", "one too many. StandardNormalPrior takes no arguments"),
        ("no_such_module:Prior", "No module named 'no_such_module'"),
        (f"{__name__}:Missing", "has no attribute 'Missing'"),
        ({"class_path": PATH, "init_arg": {}}, "did you mean 'init_args'"),
        ({"init_args": {}}, "write class_path: module.Class"),
        ({"class_path": PATH, "init_args": [3]}, "init_args: a mapping"),
        ({"class_path": "nowhere.Prior"}, "No module named 'nowhere'"),
    ],
    ids=str,
)
def test_a_mistake_is_named_in_one_line(spec, message):
    with pytest.raises(ValueError, match=r".") as error:
        KNOWN.parse(spec)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_module_whose_own_import_fails_is_told_with_the_reason(tmp_path, monkeypatch):
    (tmp_path / "halfdone.py").write_text("import no_such_library\n")
    (tmp_path / "broken.py").write_text("def f(:\n")
    monkeypatch.syspath_prepend(tmp_path)
    for module, reason in [("halfdone", "No module named 'no_such_library'"), ("broken", "Syntax")]:
        with pytest.raises(ValueError, match=reason) as error:
            KNOWN.parse(f"{module}:Prior")
        assert "import" in str(error.value)
        assert "normal" not in str(error.value)


def test_what_a_class_refuses_is_said_with_its_name():
    part = KNOWN.parse("widened:-1")
    with pytest.raises(ValueError, match=r"prior 'widened:-1': width must be positive, got -1.0"):
        part(latent=2)


def test_forms():
    assert KNOWN.form("normal") == "normal"
    assert KNOWN.form("widened") == "widened:WIDTH[,KIND,SIZES,learned=LEARNED]"


def test_a_configuration_written_out_in_full_builds_the_same_model():
    dataset = load_dataset("digits").binarized("static", seed=0)
    config = RunConfig.of(prior="learned-normal", likelihood="normal:0.5", latent=3, hidden=(4,))
    complete = config.complete()
    assert complete["prior"]["class_path"] == "ppl_vae.priors.LearnedNormalPrior"
    assert complete["likelihood"]["init_args"]["scale"] == 0.5
    again = RunConfig.from_mapping(json.loads(json.dumps(complete)))
    assert again.complete() == complete
    pairs = zip(
        config.build_vae(dataset).parameters(), again.build_vae(dataset).parameters(), strict=True
    )
    assert all(torch.equal(a, b) for a, b in pairs)
    assert isinstance(again.build_vae(dataset).prior, LearnedNormalPrior)


@pytest.mark.parametrize("kind", MODEL_KINDS)
def test_every_name_is_in_the_documentation(kind):
    text = (Path(__file__).parents[1] / "docs" / "parts.md").read_text()
    missing = [name for name in MODEL_KINDS[kind] if not re.search(rf"`{name}[:`]", text)]
    assert missing == []


def test_files_of_the_last_version_name_classes_as_they_were_called():
    for old, new in (("priors.StandardNormal", "normal"), ("guides.FlowGuide", "flow")):
        kind = MODEL_KINDS["prior" if "priors" in old else "guide"]
        assert kind.parse({"class_path": f"ppl_vae.{old}"}).build is kind[new]


def test_a_class_is_known_by_the_folder_that_exports_it():
    paths = [class_path(build) for kind in KINDS.values() for build in kind.values()]
    assert "ppl_vae.evidence.AnnealedImportanceSampling" in paths
    assert [path for path in paths if "._" in path] == []
    assert class_path(Widened) == f"{__name__}.Widened"
