"""The frame of a page that needs nothing else: no network, no other file."""

import hashlib
from base64 import b64encode
from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape
from importlib.resources import files
from string import Template

from drn_cli import __version__


def page(title: str, sections: Sequence[str]) -> str:
    """Put the sections into the frame, whose policy lets a browser load nothing at all."""
    folder = files("drn_cli.report")
    frame, style, script = (
        (folder / name).read_text(encoding="utf-8") for name in ("page.html", "page.css", "page.js")
    )
    digest = b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return Template(frame).substitute(
        title=escape(title),
        style=style,
        script=script,
        digest=digest,
        body="\n".join(section for section in sections if section),
        version=escape(__version__),
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
