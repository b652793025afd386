"""A Reflex plugin: the pages find their server where they came from, on any host, port and path prefix.

- Reflex compiles absolute addresses into one chunk; it is replaced by one that reads the address of the page.
- Reflex drops the port of an https address on localhost; it is kept.
- Either change fails the build where Reflex's text is another than expected.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from reflex_base.plugins.base import Plugin

ENV = """const l=globalThis.location,b=new URL("..",import.meta.url).pathname.replace(/\\/$/,""),h=l.origin+b,w=h.replace(/^http/,"ws");
var e={PING:h+"/ping",EVENT:w+"/_event",UPLOAD:h+"/_upload",AUTH_CODESPACE:h+"/auth-codespace",HEALTH:h+"/_health",ALL_ROUTES:h+"/_all_routes",TRANSPORT:"websocket",TEST_MODE:!1};export{e as t};
"""
DROP = 'endpoint.port = ""; // Assume websocket is on https port via load balancer.'
KEEP = "/* the port is kept */"


def keep_port(source: str) -> str:
    """The text of Reflex's state.js without the line that drops the port; a text that was changed before passes."""
    if source.count(DROP) + source.count(KEEP) != 1:
        raise RuntimeError("Reflex's state.js is another than expected: see getBackendURL")
    return source.replace(DROP, KEEP)


class SameOriginPlugin(Plugin):
    """Replaces the compiled addresses."""

    def pre_compile(self, **context: Any) -> None:
        """Keep the port of the address."""
        context["add_modify_task"]("utils/state.js", keep_port)

    def post_build(self, **context: Any) -> None:
        """Write the chunk that reads the address of the page."""
        [chunk] = Path(context["static_dir"]).rglob("reflex-env-*.js")
        if not re.fullmatch(r"var e=\{.*\};export\{e as t\};\s*", chunk.read_text(encoding="utf-8"), re.S):
            raise RuntimeError("Reflex's chunk of addresses is another than expected")
        chunk.write_text(ENV, encoding="utf-8")
