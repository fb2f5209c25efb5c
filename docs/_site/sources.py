"""Files and folders of the project that pages link to, as pages of the site.

On GitHub a link such as `../nnx/layers/dense.py` leads to the file. On the site each file that is linked to is a page
that shows it, and each folder a page that lists it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from html import escape
from pathlib import Path
from typing import Any

from docutils import nodes
from pygments.lexers import get_lexer_for_filename
from pygments.util import ClassNotFound
from sphinx import addnodes

ROOT = Path(__file__).resolve().parent.parent.parent
Page = tuple[str, dict[str, Any], str]


def page_of(path: Path) -> str:
    """Return the name of the page that shows a file or folder."""
    return f"source/{path.relative_to(ROOT).as_posix()}"


def collect(app: Any, doctree: nodes.document) -> None:
    """Point the links to files and folders outside docs/ to their pages, and remember which pages are wanted."""
    folder = Path(app.env.doc2path(app.env.docname)).parent
    for node in [*doctree.findall(addnodes.download_reference), *doctree.findall(addnodes.pending_xref)]:
        path = node["reftarget"].partition("#")[0]
        found = [target for end in ("", ".md") if path and (target := (folder / f"{path}{end}").resolve()).exists()]
        if not found or not found[0].is_relative_to(ROOT) or found[0].is_relative_to(app.srcdir):
            continue  # a page or a heading of the site
        target = found[0]
        app.env.nnx_sources.add(target)
        uri = app.builder.get_relative_uri(app.env.docname, page_of(target))
        node.replace_self(nodes.reference("", "", *node.children, refuri=uri, internal=True))


def listed(folder: Path) -> Iterator[Path]:
    """Yield what is in a folder and belongs to the project."""
    for path in sorted(folder.iterdir()):
        if not path.name.startswith((".", "__pycache__")):
            yield path


def text_of(app: Any, path: Path) -> str:
    """Return a file as HTML, in colours where its language is known."""
    text = path.read_text(encoding="utf-8")
    try:
        language = get_lexer_for_filename(path.name).aliases[0]
    except ClassNotFound:
        language = "text"
    return str(app.builder.highlighter.highlight_block(text, language, linenos=False))


def pages(app: Any) -> Iterator[Page]:
    """Yield a page for each file that is linked to, and for those that folders list."""
    wanted, done = sorted(app.env.nnx_sources), set()
    while wanted:
        path = wanted.pop()
        if path in done or path.suffix in (".png", ".gif"):
            continue
        done.add(path)
        title = path.relative_to(ROOT).as_posix()
        if path.is_dir():
            below = list(listed(path))
            wanted += below
            links = (
                f'<li><a href="{app.builder.get_relative_uri(page_of(path), page_of(each))}">'
                f"{escape(each.name)}{'/' * each.is_dir()}</a></li>"
                for each in below
                if each.suffix not in (".png", ".gif")
            )
            body = f"<ul>{''.join(links)}</ul>"
        else:
            body = text_of(app, path)
        yield page_of(path), {"title": title, "body": f"<h1>{escape(title)}</h1>\n{body}"}, "page.html"


def navigate(app: Any, name: str, template: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
    """Make the navigation once for all files of a folder: it is the same, and takes longer than the rest of a page."""
    if name.startswith("source/"):
        context["toctree"] = made_once(app.env.nnx_navigation, name.rpartition("/")[0], context["toctree"])


def made_once(made: dict[Any, str], folder: str, make: Callable[..., str]) -> Callable[..., str]:
    """Return what makes a navigation, unless it is made: links from all pages of a folder are the same."""

    def navigation(**options: Any) -> str:
        key = (folder, *sorted(options.items()))
        if key not in made:
            made[key] = make(**options)
        return made[key]

    return navigation


def begin(app: Any) -> None:
    """Begin with no file linked to."""
    app.env.nnx_sources, app.env.nnx_navigation = set(), {}


def setup(app: Any) -> dict[str, bool]:
    """Connect the extension."""
    app.connect("builder-inited", begin)
    app.connect("doctree-read", collect)
    app.connect("html-collect-pages", pages)
    app.connect("html-page-context", navigate, priority=400)  # before the theme, which asks for the navigation
    return {"parallel_read_safe": False, "parallel_write_safe": True}
