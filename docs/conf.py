# SPDX-License-Identifier: Apache-2.0
"""The site that `make docs` builds from these documents and the docstrings."""

from bert_jax import __version__

project = "bert_jax"
release = __version__
html_theme = "furo"
html_title = f"bert_jax {__version__}"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
myst_heading_anchors = 3
autodoc_typehints = "description"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
napoleon_numpy_docstring = False
