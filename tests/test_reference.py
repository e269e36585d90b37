"""The API reference: every exported name is on a page of the documentation."""

import importlib
import inspect
import re
from pathlib import Path

import ppl_vae as pv

DOCS = Path(__file__).parents[1] / "docs"
DIRECTIVE = re.compile(
    r"^\.\. auto(module|class|function|exception):: (\S+)\n((?:   :.*\n)*)", re.M
)


def documented():
    """Every object that an autodoc directive shows."""
    found = []
    for path in sorted(DOCS.glob("*.md")):
        for kind, name, options in DIRECTIVE.findall(path.read_text() + "\n"):
            if kind != "module":
                found.append(resolve(name))
                continue
            members = re.search(r":members:(.*)", options)
            if members:
                found += members_of(importlib.import_module(name), members[1])
    return found


def members_of(module, listed):
    names = [name.strip() for name in listed.split(",") if name.strip()]
    if names:
        return [getattr(module, name) for name in names]
    public = [value for name, value in vars(module).items() if not name.startswith("_")]
    return [value for value in public if getattr(value, "__module__", None) == module.__name__]


def resolve(path):
    """The object at a path; a function goes before the module of its name."""
    found, *names = [pv, *path.split(".")[1:]]
    for position, name in enumerate(names, start=2):
        if not hasattr(found, name):
            importlib.import_module(".".join(path.split(".")[:position]))
        found = getattr(found, name)
    return found


def test_every_exported_name_is_documented():
    known = documented()
    missing = [
        name
        for name in pv.__all__
        if not inspect.ismodule(getattr(pv, name))
        and not any(getattr(pv, name) is found for found in known)
    ]
    assert missing == [], "add them to docs/api.md"


def test_nothing_is_documented_twice():
    known = [found for found in documented() if inspect.isclass(found) or inspect.isfunction(found)]
    twice = {found.__qualname__ for found in known if sum(found is other for other in known) > 1}
    assert twice == set()
