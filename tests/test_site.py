"""The documentation is one path: every page has its place, and every link leads somewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import readme_page
import yaml

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
LINK = re.compile(r"(?<!`)\]\(([^)#:\s]+)(?:#[^)]*)?\)")


def places(nav: Any) -> Iterator[str]:
    for entry in nav if isinstance(nav, list) else nav.values():
        yield from [entry] if isinstance(entry, str) else places(entry)


def test_the_path_holds_every_page_once() -> None:
    nav = list(places(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]))
    pages = {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}
    assert sorted(nav) == sorted(pages | {readme_page.PAGE})


def test_every_link_leads_somewhere() -> None:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS.rglob("*.md")]
    broken = [
        f"{page.relative_to(ROOT)}: {link}"
        for page in pages
        for link in LINK.findall(page.read_text(encoding="utf-8"))
        if not (page.parent / link).exists()
    ]
    assert broken == []


def test_the_readme_as_a_page_links_within_the_site() -> None:
    text = readme_page.page((ROOT / "README.md").read_text(encoding="utf-8"))
    links = LINK.findall(text)
    assert len(links) > 20 and [link for link in links if not (DOCS / link).exists()] == []


def test_pages_that_name_the_readme_name_its_page() -> None:
    said = readme_page.on_page_markdown("[a](../README.md) [b](../../README.md#x)")
    assert said == "[a](five-minutes.md) [b](../five-minutes.md#x)"


def test_every_source_of_a_system_is_an_address() -> None:
    links = re.findall(r"\]\(([^)]*)\)", (DOCS / "systems.md").read_text(encoding="utf-8"))
    assert len(links) > 50 and [link for link in links if not re.fullmatch(r"https://\S+|[\w-]+\.md", link)] == []
