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
autodoc_typehints = "none"  # signatures stay short; shapes are in the docstrings
autodoc_member_order = "bysource"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_attr_annotations = False  # as autodoc_typehints
