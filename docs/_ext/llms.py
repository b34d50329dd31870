"""`llms.txt`: what this site has, for whoever reads it by program (llmstxt.org).

Made at the end of a build: each page with its address, its title and its first sentence, in the order of
the site; and `llms-full.txt`, the pages themselves as they were written.
"""

import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

_ABOUT = "A trio connection pool for the Responses API over WebSocket, for people with many agents."


def _order(app: Sphinx, page: str, seen: list[str]) -> list[str]:
    seen.append(page)
    for below in app.env.toctree_includes.get(page, []):
        if below not in seen:
            _order(app, below, seen)
    return seen


def _first_sentence(source: str) -> str:
    """The first sentence of the first paragraph that is neither heading, fence, directive nor table."""
    for paragraph in re.split(r"\n\s*\n", re.sub(r"^```.*?^```", "", source, flags=re.DOTALL | re.MULTILINE)):
        text = " ".join(paragraph.split())
        if text and not re.match(r"[#|<!({>-]|:::", text):
            return re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", re.split(r"(?<=\.)\s", text)[0])
    return ""


def _write(app: Sphinx, problem: Exception | None) -> None:
    if problem is not None or app.builder.name != "html":
        return
    base = app.config.html_baseurl.rstrip("/")
    lines, texts = ["# wspool", "", f"> {_ABOUT}", ""], []
    for page in _order(app, app.config.root_doc, []):
        source = Path(app.env.doc2path(page)).read_text(encoding="utf-8")
        title = app.env.titles[page].astext()
        said = _first_sentence(source)
        lines.append(f"- [{title}]({base}/{page}.html)" + (f": {said}" if said else ""))
        texts.append(f"<!-- {page} -->\n\n{source.strip()}\n")
    out = Path(app.outdir)
    (out / "llms.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (out / "llms-full.txt").write_text("\n".join(texts), encoding="utf-8")


def setup(app: Sphinx) -> dict[str, Any]:
    """Register it."""
    app.connect("build-finished", _write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
