"""Links lead somewhere."""

from __future__ import annotations

from pathlib import Path

import pages
import pytest

INSIDE = [
    (page, target)
    for page in pages.documents()
    for target in pages.links(page)
    if not target.startswith(("http://", "https://", "mailto:"))
]


@pytest.mark.parametrize(
    ("page", "target"), INSIDE, ids=[f"{p.relative_to(pages.ROOT)}:{t}" for p, t in INSIDE]
)
def test_a_link_leads_somewhere(page: Path, target: str):
    path, _, anchor = target.partition("#")
    file = (page.parent / path).resolve() if path else page

    assert file.exists(), f"{page.name} links to {target}"
    if anchor:
        assert anchor in pages.anchors(file)


def test_every_document_can_be_reached_from_the_readme():
    seen: set[Path] = set()
    todo = [pages.ROOT / "README.md"]
    while todo:
        page = todo.pop()
        seen.add(page)
        for origin, target in INSIDE:
            file = (origin.parent / target.partition("#")[0]).resolve()
            if origin == page and file.suffix == ".md" and file not in seen:
                todo.append(file)

    assert set(pages.documents()) - seen - {pages.ROOT / "CHANGELOG.md"} == set()
