from collections import namedtuple

from sphinx.application import Sphinx

project = "ppl_vae"
author = "the ppl_vae authors"
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
html_theme = "furo"
html_title = "ppl_vae"
html_static_path = []
exclude_patterns = ["_build", "pypi.md"]  # the page of the package index
myst_enable_extensions = ["dollarmath"]
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
nitpicky = True
python_maximum_signature_line_length = 88
# What a base class documents once.
autodoc_default_options = {
    "exclude-members": "forward, bound, surrogate, elbo_terms, claims, graph, least_particles, "
    "simulates, support, arg_constraints, expand, factors, anneals, state, load_state"
}
autodoc_member_order = "bysource"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_attr_annotations = False  # the signature has the types
# Other projects' names, types too long for one link, and classes that no folder exports.
nitpick_ignore_regex = [
    ("py:.*", r"(torch|numpy|pandas|xarray|matplotlib|jaxtyping|pyro|collections|pathlib)\..*"),
    ("py:.*", r"(os|io|inspect|contextlib|typing|hashlib)\..*|ndarray|Tensor|ELPDData|.*\[.*|'.*"),
    ("py:.*", r"(pd|xr)\..*"),
    ("py:class", r"ppl_vae\.([a-z_]+\.)*_.*|Build|Components|Model"),
]


def setup(app: Sphinx) -> None:
    """Leave out the fields of named tuples, which their Attributes sections describe."""
    app.connect(
        "autodoc-skip-member",
        lambda _app, _what, _name, member, _skip, _options: (
            True if isinstance(member, type(namedtuple("T", "field").field)) else None
        ),
    )
