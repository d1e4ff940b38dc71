"""The documentation of fjx: built offline, with every warning an error."""

import importlib.metadata
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

project = "fjx"
author = "The fjx authors"
copyright = "The fjx authors"
version = release = importlib.metadata.version("fjx")

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "myst_nb",
    "sphinx_copybutton",
    "_ext.bars",
    "_ext.coverage",
    "_ext.formulas",
    "_ext.public",
]
exclude_patterns = ["_build"]

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
# The attributes of a NamedTuple are its parameters.
napoleon_custom_sections = ["Guarantees", "Bits", ("Attributes", "params_style")]
python_maximum_signature_line_length = 88
toc_object_entries_show_parents = "hide"
add_module_names = False

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_execution_timeout = 300
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

html_theme = "furo"
html_title = "fjx"
html_show_sourcelink = False
html_math_renderer = "mathml"
html_static_path = ["_static"]
html_css_files = ["fjx.css"]
