"""Sphinx's configuration for the site; `build.py` calls Sphinx with it."""

from __future__ import annotations

from pygments.lexers.special import TextLexer
from sphinx.highlighting import lexers

project = "anabranch"
copyright = "the anabranch authors"
root_doc = "index"
extensions = ["myst_parser", "sphinxcontrib.mermaid"]

# Anchors are those that GitHub makes of the headings, so that one link works on both.
myst_heading_anchors = 4
myst_fence_as_directive = ["mermaid"]
myst_enable_extensions = ["fieldlist"]
# Links to Faust's and Python's own documentation are not followed: the build needs no network.
suppress_warnings = ["misc.highlighting_failure"]  # `…` in examples

html_theme = "furo"
html_title = "anabranch"
html_copy_source = False
html_show_sphinx = False
pygments_style = "friendly"
pygments_dark_style = "monokai"

for language in ("hex", "jsonl"):
    lexers[language] = TextLexer()
