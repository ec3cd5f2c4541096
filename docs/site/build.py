"""Builds the documentation as a site: `python docs/site/build.py`, or `make docs`.

The pages are Markdown that reads well on GitHub as it is. The site adds three things: the contents at the side, which
follow the links of `docs/index.md`; the references that are generated from the code; and a check of all links, within
the site, to the headings as well. A warning is an error.

Sphinx reads copies of the pages, in `build/docs-pages`, where the links to pages outside of `docs/` lead into the site.
Links to files that are no pages, such as sources, become plain text.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from api_reference import api_reference
from command_reference import command_reference
from error_reference import error_reference

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"

# Pages outside of docs/, under their names in the site.
ROOT_PAGES = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md", "deploy/README.md": "deploy.md"}
START = "index.md"  # stands for the README, whose content is on the first pages

# Pages that have a text generated from the code, in place of a line `<!-- generated -->`.
GENERATED: dict[str, Callable[[], str]] = {
    "api.md": api_reference,
    "commands.md": command_reference,
    "errors.md": error_reference,
}
PLACE = "<!-- generated -->"

_LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
_FENCED = re.compile(r"^( *)```.*?^\1```$", re.MULTILINE | re.DOTALL)


def pages() -> dict[str, Path]:
    """The pages of the site: name in the site, and file."""
    found = {str(path.relative_to(DOCS)): path for path in sorted(DOCS.rglob("*.md"))}
    return found | {name: ROOT / path for path, name in ROOT_PAGES.items()}


def site_page(name: str, path: Path, names: dict[Path, str]) -> str:
    """Return the Markdown of a page as the site has it.

    Args:
        name: name of the page in the site.
        path: its file.
        names: names of all pages in the site, by file.
    """
    text = path.read_text()
    if name in GENERATED:
        text = text.replace(PLACE, GENERATED[name]())

    def site_link(match: re.Match[str]) -> str:
        words, target = match[1], match[2]
        place, mark, anchor = target.partition("#")
        if not place or "://" in target or target.startswith("mailto:"):
            return match[0]
        file = (path.parent / place).resolve()
        page = START if file == ROOT / "README.md" else names.get(file)
        if page is not None:
            page = os.path.relpath(page, Path(name).parent)
            return f"[{words}]({page}{mark}{anchor if file != ROOT / 'README.md' else ''})".replace("#)", ")")
        return match[0] if file.suffix == ".svg" or not file.exists() else words

    parts, last = list[str](), 0
    for block in _FENCED.finditer(text):
        parts += [_LINK.sub(site_link, text[last : block.start()]), block[0]]
        last = block.end()
    text = "".join([*parts, _LINK.sub(site_link, text[last:])])
    return text + contents(text, names.values()) if name == START else text


def contents(index: str, names: Iterable[str]) -> str:
    """Return the contents at the side: a tree for each section of the index with the pages that it links to.

    Pages that the index does not name are in a last section, so that a new page is never lost.
    """
    listed: list[str] = [START]
    trees: list[tuple[str, list[str]]] = []
    for section in index.split("\n## ")[1:]:
        found = [target.partition("#")[0] for _, target in _LINK.findall(section) if ".md" in target]
        found = [page for page in dict.fromkeys(found) if page not in listed]
        listed += found
        if found:
            trees.append((section.partition("\n")[0], found))
    rest = [name for name in names if name not in listed]
    if rest:
        trees.append(("More", rest))
    return "".join(
        f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{chr(10).join(found)}\n```\n" for caption, found in trees
    )


def stage(folder: Path) -> None:
    """Write the pages of the site, as Markdown, into a folder. Files that did not change are left alone."""
    found = pages()
    names = {path.resolve(): name for name, path in found.items()}
    for name, path in found.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        text = site_page(name, path, names)
        if not target.exists() or target.read_text() != text:
            target.write_text(text)
    for path in DOCS.rglob("*.svg"):
        shutil.copy2(path, folder / path.relative_to(DOCS))
    for path in folder.rglob("*.md"):
        if str(path.relative_to(folder)) not in found:
            path.unlink()


def build(build_folder: Path) -> int:
    """Build the site in `build_folder/docs`; returns Sphinx's exit code."""
    from sphinx.cmd.build import build_main

    sources, output, cache = (build_folder / name for name in ("docs-pages", "docs", "docs-cache"))
    stage(sources)
    flags = ["-b", "html", "-W", "--keep-going", "-q", "-j", "1", "-c", str(Path(__file__).parent), "-d", str(cache)]
    return build_main([*flags, str(sources), str(output)])


def main() -> int:
    parser = argparse.ArgumentParser(description="Build the documentation as a site.")
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "build", help="default: build/")
    folder = parser.parse_args().folder
    code = build(folder)
    if code == 0:
        print(f"the site is in {folder / 'docs'}: open {folder / 'docs' / 'index.html'}")
    return code


if __name__ == "__main__":
    sys.exit(main())
