"""Settings of the documentation's site, which `make docs` builds from the Markdown files of this folder.

The lists of the front page, `index.md`, are the site's table of contents. The page `python.md` gets the docstrings of
all public names.
"""

import re

import trimtab

project = html_title = "trimtab"
root_doc = "index"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
source_suffix = {".md": "markdown"}
html_theme = "furo"
html_favicon = "icon.svg"
html_show_copyright = False
html_copy_source = False
copybutton_prompt_text = "$ "
myst_heading_anchors = 3
default_role = "code"  # docstrings mark names with single backticks
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_use_rtype = False


def table_of_contents(front_page: str) -> str:
    """A hidden table of contents for each section of the front page: its heading, and the pages that its list links."""
    blocks = []
    for heading, body in re.findall(r"^## (.*)\n((?:(?!## ).*\n?)*)", front_page, flags=re.MULTILINE):
        pages = [page.removesuffix(".md") for page in re.findall(r"^- \[[^\]]*\]\(([^)#]+\.md)\)", body, re.MULTILINE)]
        blocks.append("\n".join(["```{toctree}", ":hidden:", f":caption: {heading}", "", *pages, "```"]))
    return "\n\n".join(blocks)


def public_names() -> str:
    """A section for each public name, with its signature and docstring."""
    sections = []
    for name in trimtab.__all__:
        kind, members = "autofunction", ""
        if isinstance(trimtab.__getattr__(name), type):
            kind, members = "autoclass", "\n   :members:\n   :exclude-members: model_config"
        sections.append(f"## {name}\n\n```{{eval-rst}}\n.. {kind}:: trimtab.{name}{members}\n```")
    return "\n\n".join(sections)


def complete(app, page, source):
    """Add to a page, before it is parsed, what its Markdown file leaves to the site."""
    if page == root_doc:
        source[0] += "\n" + table_of_contents(source[0])
    elif page == "python":
        source[0] += "\n" + public_names()


def setup(app):
    app.connect("source-read", complete)
