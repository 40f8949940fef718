"""The site: `make docs`, then outputs/docs/index.html."""

import sys
from importlib.metadata import version as installed_version
from pathlib import Path


sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "solar-trl"
author = "The solar-trl team"
copyright = "2026, the solar-trl team"
version = release = installed_version("solar-trl")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton", "cli_help", "docstrings", "mathml"]
exclude_patterns = ["_ext"]

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 4  # headings can be linked as on GitHub
html_math_renderer = "mathml"

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # types stand in the docstrings, with shapes
autodoc_default_options = {"members": True}
autodoc_inherit_docstrings = False  # what a method does not say of itself is TRL's to say
# Not needed to read docstrings
autodoc_mock_imports = ["vllm"]
maximum_signature_line_length = 100
add_module_names = False
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

html_theme = "furo"
html_title = f"solar-trl {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
