"""A hook of mkdocs (see mkdocs.yml): the README is a page of the site, and its links lead to the site's pages."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

README = Path(__file__).resolve().parents[1] / "README.md"
PAGE = "five-minutes.md"


def page(readme: str) -> str:
    """The README as a page in docs/: its pages and pictures lie beside it, and what lies outside of docs is named without a link."""
    beside = re.sub(r"\]\(docs/", "](", readme)
    return re.sub(r"(?<!!)\[([^\]]+)\]\((?:anypo/[^)]*|LICENSE)\)", r"\1", beside)


def on_files(files: Any, config: Any) -> Any:
    """Add the page."""
    from mkdocs.structure.files import File

    files.append(File.generated(config, PAGE, content=page(README.read_text(encoding="utf-8"))))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """A page that names the README means its page."""
    return markdown.replace("(../README.md", f"({PAGE}").replace("(../../README.md", f"(../{PAGE}")
