"""Check a built site: every link leads to a page and a heading that are there, and nothing is loaded from elsewhere.

`python docs/_site/links.py out/site` prints what is broken, and exits with 1 if something is.
"""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """The anchors, links and loaded files of a page."""

    def __init__(self, path: Path) -> None:
        """Read the page."""
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what a tag names and where it leads."""
        found = {name: value for name, value in attrs if value}
        self.anchors.update(found[name] for name in ("id", "name") if name in found)
        if "href" in found:
            (self.loaded if tag == "link" and "search" not in found.get("rel", "") else self.links).append(
                found["href"]
            )
        if "src" in found:
            self.loaded.append(found["src"])


def broken(site: Path) -> list[str]:
    """Return a line for each link of a site that leads nowhere, and for each file loaded from another host."""
    pages = {path.resolve(): Page(path) for path in sorted(site.rglob("*.html"))}
    lines = []
    for path, page in pages.items():
        for link in page.links + page.loaded:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                if link in page.loaded and parts.scheme != "data":
                    lines.append(f"{path.relative_to(site.resolve())}: loads {link}")
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            there = target.exists()
            if there and target in pages and parts.fragment:
                there = unquote(parts.fragment) in pages[target].anchors
            if not there:
                lines.append(f"{path.relative_to(site.resolve())}: {link}")
    if not pages:
        lines.append(f"{site}: no pages")
    return lines


if __name__ == "__main__":
    found = broken(Path(sys.argv[1]))
    print(*found, sep="\n", end="\n" if found else "")
    sys.exit(bool(found))
