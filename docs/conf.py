"""How Sphinx builds the docs: make docs."""

import os
import shutil
import sys
from pathlib import Path

from bbpyro.version import __version__

project = "bbpyro"
copyright = "the authors of bbpyro"
version = release = __version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinxcontrib.programoutput",
]
exclude_patterns = [
    "_build",
    "**/.ipynb_checkpoints",
    "study/table.md",
]  # the last is within explanation/priors-table.md
default_role = "code"

html_theme = "furo"
html_extra_path = ["llms.txt"]
html_title = f"bbpyro {version}"

myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # tests/test_notebooks.py executes them, and they are committed with their outputs

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_default_options = {"members": True, "show-inheritance": True}
autosummary_generate = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
copybutton_prompt_text = r">>> |\$ "

# The commands' help is that of this environment, in lines that fit the page.
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
os.environ["COLUMNS"] = "100"

# Fetched at build: without a network give BBPYRO_DOCS_OFFLINE=1, and names of other projects stay plain text.
intersphinx_mapping = (
    {}
    if os.environ.get("BBPYRO_DOCS_OFFLINE")
    else {
        "python": ("https://docs.python.org/3", None),
        "torch": ("https://docs.pytorch.org/docs/stable", None),
        "pyro": ("https://docs.pyro.ai/en/stable", None),
        "arviz": ("https://python.arviz.org/en/stable", None),
    }
)

# The notebooks are at the top of the repository, where links of the pages find them; Sphinx reads what is below docs/.
HERE = Path(__file__).parent
NOTEBOOKS = HERE / "tutorials" / "notebooks"
MOVED = {"../../notebooks/": "../tutorials/notebooks/", "../../CONTRIBUTING.md": "../contributing.md"}
MOVED_IN_NOTEBOOKS = {
    "](../docs/": "](../../",
    "](../bbpyro/": "](../../../bbpyro/",
    "](../README.md": "](../../index.md",
}


def follow(app, name, source):
    """Have links lead to where their targets are for Sphinx."""
    for old, new in (MOVED_IN_NOTEBOOKS if name.startswith("tutorials/notebooks/") else MOVED).items():
        source[0] = source[0].replace(old, new)


def setup(app):
    """Copy the notebooks below docs/."""
    NOTEBOOKS.mkdir(exist_ok=True)
    for path in HERE.parent.glob("notebooks/*.ipynb"):
        shutil.copy(path, NOTEBOOKS)
    app.connect("source-read", follow)
