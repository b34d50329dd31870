"""How the site is made: `python -m sphinx -W docs site`."""

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "docs" / "_ext")]

from wspool import __version__  # noqa: E402  # found by the path above

project = "wspool"
author = "wspool contributors"
copyright = "wspool contributors"
release = version = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "generated",
    "llms",
]
exclude_patterns = ["_ext", "_static"]
html_theme = "furo"
html_title = "wspool"
html_baseurl = "https://wspool.readthedocs.io/en/stable/"
html_static_path = ["_static"]
html_css_files = ["wspool.css"]
html_show_sphinx = False
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

# A name in backticks is a link where there is something to link to.
default_role = "py:obj"
add_module_names = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_class_signature = "mixed"
napoleon_use_ivar = True
napoleon_use_rtype = False
python_maximum_signature_line_length = 88
