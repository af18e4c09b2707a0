"""How Sphinx makes a site of these pages: ``sphinx-build -W --keep-going -n docs build/docs``.

The pages are Markdown that reads on GitHub, too. The reference is made of the docstrings and of the C++ headers, for
which Doxygen must be installed. The folder `_extensions` has what Sphinx lacks.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import fusedopt

# The one of Keras's backends for which fusedopt.keras is there; the extra has no other.
os.environ["KERAS_BACKEND"] = "torch"

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

project = "fusedopt"
author = "The fusedopt authors"
project_copyright = "the fusedopt authors. Licence: Apache-2.0"
version = release = fusedopt.__version__
repository = "https://github.com/fusedopt/fusedopt"

extensions = [
    "breathe",
    "myst_parser",
    "numpydoc",
    "sphinx-mathjax-offline",  # no formula needs the network
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.linkcode",
    "sphinx.ext.mathjax",
    "sphinx_copybutton",
    "breaks_in_names",
    "contents",
    "cpp_headers",
    "files_outside",
    "formulas",
    "names_in_code",
    "python_reference",
]
exclude_patterns = ["_*"]
templates_path = ["_templates"]

# Pages

myst_enable_extensions = ["deflist", "dollarmath"]
myst_heading_anchors = 4
myst_fence_as_directive = ["eval-rst"]

# The reference of Python

autodoc_typehints = "none"
autodoc_member_order = "bysource"
autosummary_generate = True
numpydoc_show_class_members = False
default_role = "py:obj"

# The reference of C++: names that Sphinx's C++ domain cannot look up in templates' arguments and in front of names

nitpick_ignore = [("cpp:identifier", name) for name in ("fusedopt", "Counts", "Wait")]

# Looks

pygments_dark_style = "a11y-high-contrast-dark"
html_theme = "furo"
html_title = f"fusedopt {version}"
html_baseurl = "https://fusedopt.github.io/fusedopt/"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {
    "source_repository": f"{repository}/",
    "source_branch": "main",
    "source_directory": "docs/",
}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# Links to other places are looked after by a run of their own: sphinx-build -b linkcheck docs build/links

linkcheck_timeout = 20
linkcheck_retries = 3
linkcheck_anchors_ignore_for_url = [r"https://github\.com/.*"]
