"""Building HTML and SVG so that escaping is the default. What a model wrote is hostile text.

Only `Markup` is passed through as it is; everything else that becomes a child or an attribute is escaped.
"""

from __future__ import annotations

import html
import re


class Markup(str):
    """Text that is HTML already. Made by `el` and `join` alone, and by `raw` for files of our own."""

    __slots__ = ()


Child = object
"""Markup, text, a number, None (nothing), or a list or tuple of them."""

_VOID = frozenset({"meta", "link", "br", "hr", "img", "input", "col"})
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_DIRECTION = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def clean(text: str) -> str:
    """Text without what cannot stand in a document or would reorder it: each such character is shown by its number."""
    text = text.replace("\r\n", "\n")
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    text = _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)
    return _DIRECTION.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def escape(value: object) -> Markup:
    return value if isinstance(value, Markup) else Markup(html.escape(clean(str(value)), quote=True))


def raw(text: str) -> Markup:
    """Vouch for text that is not built here, such as our own style sheet."""
    return Markup(text)


def join(*children: Child) -> Markup:
    parts: list[str] = []
    for child in children:
        if isinstance(child, (list, tuple)):
            parts.append(join(*child))
        elif child is not None:
            parts.append(escape(child))
    return Markup("".join(parts))


def el(name: str, /, *children: Child, **attributes: object) -> Markup:
    """An element. `class_` is `class`, other underscores are dashes; an attribute of None is left out, True is bare.

    >>> el("p", "1 < 2", class_="note", hidden=True)
    '<p class="note" hidden>1 &lt; 2</p>'
    """
    written = []
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        key = key.rstrip("_").replace("_", "-")
        # An attribute is escaped even where it holds HTML: the document of an iframe's srcdoc does.
        written.append(f" {key}" if value is True else f' {key}="{html.escape(clean(str(value)), quote=True)}"')
    head = f"<{name}{''.join(written)}"
    if name in _VOID:
        return Markup(f"{head}>")
    return Markup(f"{head}>{join(*children)}</{name}>")


def table(columns: list[Child], rows: list[list[Child]], *, caption: Child = None, class_: str = "") -> Markup:
    """A table whose first cell in each row is its header; a cell that is `th` or `td` already stays as it is.

    It scrolls sideways by itself where the page is narrow.
    """
    head = el("thead", el("tr", [el("th", column, scope="col") for column in columns]))
    body = [el("tr", [_cell(cell, header=i == 0) for i, cell in enumerate(row)]) for row in rows]
    inner = el(
        "table", el("caption", caption) if caption is not None else None, head, el("tbody", body), class_=class_ or None
    )
    return el("div", inner, class_="scroll", tabindex="0", role="region", aria_label=_plain(caption) or "table")


def _cell(cell: Child, *, header: bool) -> Markup:
    if isinstance(cell, Markup) and cell.startswith(("<td", "<th")):
        return cell
    return el("th", cell, scope="row") if header else el("td", cell)


def _plain(caption: Child) -> str:
    return html.unescape(re.sub(r"<[^>]*>", "", str(caption))) if caption is not None else ""
