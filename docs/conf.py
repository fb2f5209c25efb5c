"""Settings of the site that `make docs` builds of these pages, with Sphinx, MyST and furo."""

import sys
from pathlib import Path

import nnx

sys.path.insert(0, str(Path(__file__).parent / "_site"))

project = "nnx"
author = "the nnx authors"
version = release = nnx.__version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "formulas",  # of _site/: typeset without a network
    "sources",  # of _site/: files of the project that pages link to
    "docstrings",  # of _site/: plain text, which is not reStructuredText
]
exclude_patterns = ["_site"]

# Pages are written for GitHub, too: its links to headings, its $formulas$.
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
myst_links_external_new_tab = False

default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
maximum_signature_line_length = 80
napoleon_numpy_docstring = False
napoleon_use_param = False  # several names on a line are one entry
napoleon_custom_sections = [("Attributes", "params_style")]
add_module_names = False
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = f"nnx {release}"
html_static_path = ["_site/static"]
html_css_files = ["nnx.css"]
html_math_renderer = "mathml"
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
pygments_dark_style = "github-dark"

linkcheck_anchors = False  # pages of others change theirs; ours are checked by _site/links.py
linkcheck_timeout = 20
