"""A study's file: what it says, and one clear line for what is wrong with it."""

import json
from pathlib import Path

import numpy as np
import pytest

from ppl_vae.engines import Resources
from ppl_vae.runs import RunConfig
from ppl_vae.settings_file import parse_settings
from ppl_vae.studies import (
    Method,
    Study,
    add_to_study,
    read_study,
    study_from_mapping,
    study_template,
    study_to_mapping,
    write_yaml,
)

EXAMPLES = sorted((Path(__file__).parents[2] / "examples" / "studies").glob("*.yaml"))
TEXT = """\
question: Which?   # a comment
config: {data: digits, latent: 20, hidden: [100, 100], learning_rate: 3e-3}
factors:
  objective: [elbo, iwae:50]   # two
  learning_rate: [1e-3, 0.01]
seeds: 2
budget: {updates: 10}
evaluation:
  split: valid
  limit: 100
  methods: [iwae, {method: iwae, particles: 7, label: few}]
measures: [decomposition]
confidence: 0.9
resources: {cpus: 1, gpus: 0.5}
"""


def write(tmp_path, text, name="study.yaml"):
    path = tmp_path / name
    path.write_text(text)
    return path


def test_everything_in_a_file_arrives(tmp_path):
    study = read_study(write(tmp_path, TEXT))
    assert study.question == "Which?"
    assert study.text == TEXT
    assert study.config.training.learning_rate == 0.003
    assert study.config.training.updates == 10
    assert study.seeds == (0, 1)
    assert list(study.arms) == [
        "elbo learning_rate=0.001",
        "elbo learning_rate=0.01",
        "iwae:50 learning_rate=0.001",
        "iwae:50 learning_rate=0.01",
    ]
    assert study.arms["iwae:50 learning_rate=0.01"].config.training.learning_rate == 0.01
    assert study.arms["elbo learning_rate=0.01"].levels == {
        "objective": "elbo",
        "learning_rate": "0.01",
    }
    assert study.methods == (Method("iwae"), Method("iwae", {"particles": 7}, "few"))
    assert (study.split, study.limit, study.confidence) == ("valid", 100, 0.9)
    assert study.resources == Resources(1, 0.5)


def test_all_arms_of_a_seed_come_before_the_next():
    study = study_from_mapping(parse_settings(TEXT))
    assert [cell.config.seed for cell in study.cells] == [0] * 4 + [1] * 4
    assert len({cell.folder for cell in study.cells}) == 8


def test_arms_of_many_particles_come_first_among_those_of_a_seed():
    """So that no worker waits in the end for a long one; the arms themselves stay as given."""
    study = study_from_mapping(
        {"factors": {"objective": ["elbo", "iwae:50", "vimco:5"]}, "seeds": 2}
    )
    assert [cell.arm for cell in study.cells] == ["iwae:50", "vimco:5", "elbo"] * 2
    assert list(study.arms) == ["elbo", "iwae:50", "vimco:5"]
    models = study_from_mapping({"factors": {"model": ["rbm", "vae"]}})
    assert [cell.arm for cell in models.cells][:2] == ["rbm", "vae"]


def test_toml_says_the_same(tmp_path):
    text = """
        question = "Which?"
        seeds = 2
        [config]
        data = "digits"
        hidden = [100, 100]
        [factors]
        objective = ["elbo", "iwae:50"]
    """
    study = read_study(write(tmp_path, text, "study.toml"))
    assert list(study.arms) == ["elbo", "iwae:50"]
    assert study.config.model.hidden == (100, 100)


def test_a_plan_written_and_read_is_the_same():
    study = study_from_mapping(parse_settings(TEXT))
    assert study_from_mapping(study_to_mapping(study)) == study
    assert study_from_mapping(parse_settings(write_yaml(study))) == study
    json.dumps(study_to_mapping(study))


def test_the_template_and_the_examples_are_studies(tmp_path):
    study = read_study(write(tmp_path, study_template("digits")))
    assert list(study.arms) == ["elbo", "iwae:50"]
    assert EXAMPLES
    for path in EXAMPLES:
        assert len(read_study(path).cells) > 1


def test_classes_with_arguments_are_levels():
    vamp = {"class_path": "ppl_vae.priors.VampPrior", "init_args": {"components": 7}}
    study = study_from_mapping({"factors": {"prior": ["normal", vamp, "mixture:3"]}})
    assert list(study.arms) == ["normal", "VampPrior:components=7", "mixture:3"]


def test_optimizers_are_levels():
    names = ["adam", "adam:beta1=0.99,eps=1e-4", "sgd:momentum=0.9"]
    study = study_from_mapping({"factors": {"optimizer": names}, "seeds": [0]})
    assert [arm.removeprefix("optimizer=") for arm in study.arms] == names
    assert [cell.config.training.optimizer for cell in study.cells] == names
    assert len({cell.key for cell in study.cells}) == 3
    with pytest.raises(ValueError, match="unknown optimizer 'adan'"):
        study_from_mapping({"factors": {"optimizer": ["adan"]}})


def test_levels_are_of_their_settings_types_and_checked_with_the_others():
    study = Study(config=RunConfig(), factors={"clip_norm": (1, 5)}, seeds=(0,))
    again = study_from_mapping({"factors": {"clip_norm": [1, 5]}, "seeds": [0]})
    assert list(study.arms) == list(again.arms) == ["clip_norm=1.0", "clip_norm=5.0"]
    assert [cell.key for cell in study.cells] == [cell.key for cell in again.cells]
    # 200 exceeds the epochs where none are given, which these are not.
    long = {"budget": {"epochs": 500}, "factors": {"validate_every": [1, 200]}}
    assert len(study_from_mapping(long).arms) == 2


def test_labels_that_no_file_system_takes_get_folders_of_their_own():
    values = [{"class_path": "ppl_vae.priors.VampPrior", "init_args": {"components": n}}
              for n in (3, 4)]  # fmt: skip
    study = study_from_mapping({"factors": {"prior": values}, "seeds": [5]})
    assert [cell.folder for cell in study.cells] == [
        "VampPrior-components=3-seed5",
        "VampPrior-components=4-seed5",
    ]
    strange = study_from_mapping({"factors": {"activation": ["tanh", "relu"]}})
    assert strange.cells[0].folder == "activation=tanh-seed0"


def test_data_beside_the_file(tmp_path, monkeypatch):
    np.save(tmp_path / "mine.npy", np.zeros((20, 3), dtype=np.float32))
    path = write(tmp_path, "config: {data: mine.npy}")
    monkeypatch.chdir(Path(__file__).parent)
    assert read_study(path).config.dataset.data == str(tmp_path / "mine.npy")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "plans nothing"),
        ("[1, 2]", "plans nothing"),
        ("a: [", "no readable YAML"),
        ("seeds: 2\nseeds: 3", "'seeds' stands twice, again in line 2"),
        ("config: {latent: 1:30}", "latent cannot be '1:30'"),
        ("factors: {latent: [1:30]}", "latent cannot be '1:30'"),
        ("config: {allow_missing: yes}", "allow_missing cannot be 'yes'"),
        ("config: {epochs: 3, updates: 5}", "exactly one limit"),
        ("seeds: 0", "seeds is their number, 1 or more, or a list of them, got 0"),
        ("seeds: many", "seeds is their number, 1 or more, or a list"),
        ("seeds: [1, 1]", "different numbers"),
        ("seeds: [-1]", "from 0 on"),
        ("seed: 1", "did you mean 'seeds'"),
        ("factor: {}", "did you mean 'factors'"),
        ("factors: {objectve: [elbo]}", "did you mean 'objective'"),
        ("factors: {objective: elbo}", "factor objective is a list"),
        ("factors: {objective: []}", "needs a level or more"),
        ("factors: {objective: [elbo, elbo]}", "got elbo twice"),
        ("factors: {objective: [elbo, iwea:3]}", "did you mean 'iwae'"),
        ("factors: {objective: [elbo, iwae]}", "iwae"),
        ("factors: {prior: [normal, vamp:x]}", "components cannot be 'x'"),
        ("factors: {learning_rate: [fast]}", "learning_rate cannot be 'fast'"),
        ("factors: {data: [digits, mnist]}", "a study for each data set"),
        ("factors: {seed: [1, 2]}", "give them as seeds"),
        ("config: {epochs: ten}", "epochs cannot be 'ten'"),
        ("config: {epoch: 10}", "did you mean 'epochs'"),
        ("config: {seed: 1}", "give seeds"),
        ("config: digits", "config is a mapping"),
        ("budget: {epochs: 1, updates: 3}", "exactly one limit"),
        ("budget: {epoch: 2}", "did you mean 'epochs'"),
        ("evaluation: {method: iwae}", "did you mean 'methods'"),
        ("evaluation: {methods: iwae}", "methods is a list"),
        ("evaluation: {methods: []}", "needs a method"),
        ("evaluation: {methods: [iwa]}", "did you mean 'iwae'"),
        ("evaluation: {methods: [{particles: 5}]}", "a method is its name"),
        ("evaluation: {methods: [{method: iwae, chains: 3}]}", "chains is an option of"),
        ("evaluation: {methods: [{method: iwae, particles: 0}]}", "num_particles"),
        ("evaluation: {methods: [iwae, iwae]}", "labels of their own"),
        ("evaluation: {split: tset}", "split cannot be 'tset': it is train, valid or test"),
        ("evaluation: {limit: 1}", "limit must be 2 or more"),
        ("evaluation: {limit: few}", "limit cannot be 'few': it is a whole number or null"),
        ("evaluation: {shards: 0}", "shards must be 1 or more"),
        ("confidence: 95", "confidence must be in"),
        ("confidence: high", "confidence cannot be 'high': it is a number"),
        ("reference: elob", "did you mean 'elbo'"),
        ("resources: {cpu: 1}", "did you mean 'cpus'"),
        ("resources: {cpus: 0}", "cpus must be 1 or more"),
        ("resources: {gpus: -1}", "gpus must be 0 or more"),
        ("measures: all", "unknown measure 'all'"),
        ("measures: [everything]", "unknown measure"),
    ],
)
def test_what_is_wrong_is_said_in_a_line_that_names_the_file(text, expected, tmp_path):
    path = write(tmp_path, text)
    with pytest.raises(ValueError, match=r"study\.yaml") as caught:
        read_study(path)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="study_template"):
        read_study(tmp_path / "none.yaml")


def test_seeds_and_levels_are_added_and_comments_stay(tmp_path):
    path = write(tmp_path, TEXT)
    study = add_to_study(path, seeds=3, levels={"objective": ["dreg:5"]})
    text = path.read_text()
    assert "# a comment" in text
    assert "# two" in text
    assert study.seeds == (0, 1, 2, 3, 4)
    assert study == read_study(path)
    assert "dreg:5 learning_rate=0.01" in study.arms


def test_adding_to_a_list_of_seeds_and_to_toml(tmp_path):
    path = write(tmp_path, "seeds: [3, 7]  # mine\n")
    assert add_to_study(path, seeds=2).seeds == (3, 7, 8, 9)
    assert "# mine" in path.read_text()
    toml = write(tmp_path, "seeds = 1 # mine\n[factors]\nobjective = ['elbo']\n", "a.toml")
    study = add_to_study(toml, seeds=1, levels={"objective": ["stl"]})
    assert (study.seeds, list(study.arms)) == ((0, 1), ["elbo", "stl"])
    assert toml.read_text() == "seeds = 2 # mine\n[factors]\nobjective = ['elbo', \"stl\"]\n"


def test_comments_and_layout_of_toml_stay(tmp_path):
    text = """# seeds = 1 of old, [2, 3]
seeds = [
  3, # one ]
  7, # two
]
[factors]
hidden = [[4], [8]]
objective = ['elbo'] # ["stl"]
"""
    path = write(tmp_path, text, "a.toml")
    study = add_to_study(path, seeds=2, levels={"objective": ["iwae:3", "stl"]})
    assert study.seeds == (3, 7, 8, 9)
    assert study.factors["objective"] == ("elbo", "iwae:3", "stl")
    changed = path.read_text()
    for line in text.splitlines():
        assert line.removesuffix('] # ["stl"]') in changed


def test_toml_without_seeds_gets_them(tmp_path):
    path = write(tmp_path, "[factors]\nobjective = ['elbo']\n", "a.toml")
    before = len(read_study(path).seeds)
    assert len(add_to_study(path, seeds=1).seeds) == before + 1


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, "nothing to add"),
        ({"levels": {"objective": ["iwea:3"]}}, "did you mean 'iwae'"),
        ({"levels": {"objective": ["elbo"]}}, "twice"),
        ({"levels": {"prior": ["vamp:3"]}}, "no factor prior"),
    ],
)
def test_a_wrong_addition_leaves_the_file_as_it_was(change, expected, tmp_path):
    path = write(tmp_path, TEXT)
    with pytest.raises(ValueError, match=expected):
        add_to_study(path, **change)
    assert path.read_text() == TEXT


def test_the_title_names_a_file_without_its_folder(tmp_path):
    study = Study(RunConfig.of(data=str(tmp_path / "cells.2024.csv")), {"objective": ("elbo",)})
    assert study.title == "test log p(x) on cells.2024"
    assert Study(RunConfig.of(), {"objective": ("elbo",)}).title == "test log p(x) on digits"
