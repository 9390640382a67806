"""Templates to HTML responses. Autoescape is on, nothing is loaded from elsewhere, and the policy header holds us to it.

What a model or a feed writes is data: it goes through the templates as text and never as markup. Tests: tests/fast/test_api_pages.py.
"""

from __future__ import annotations

import base64
import hashlib
import pathlib
import re
from typing import Any

import jinja2
from fastapi.responses import HTMLResponse
from markupsafe import Markup, escape

from serve_app.api.pages import views

FOLDER = pathlib.Path(__file__).parent
STYLE = (FOLDER / "style.css").read_text(encoding="utf-8")
ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><rect width="16" height="16" rx="3" fill="#0b6b58"/>'
    '<path d="M5 13V3h7M5 8h5" fill="none" stroke="#fff" stroke-width="2"/></svg>'
)

_hash = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
HEADERS = {
    "content-security-policy": (
        f"default-src 'none'; style-src 'sha256-{_hash}'; img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


def _code(text: str) -> Markup:
    """The parts between backticks as <code>; everything is escaped first."""
    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(text))))


_environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(FOLDER), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
)
_environment.filters.update(
    day=views.day,
    minute=views.minute,
    iso=views.iso,
    seconds=views.seconds,
    usd=views.usd,
    link=views.safe_link,
    paragraphs=views.paragraphs,
    code=_code,
)
_environment.globals["style"] = Markup(STYLE)  # our own file, and its hash in the policy must fit it to the byte


def page(template: str, status: int = 200, **values: Any) -> HTMLResponse:
    """One page of this folder's templates."""
    return HTMLResponse(_environment.get_template(template).render(values), status, HEADERS)
