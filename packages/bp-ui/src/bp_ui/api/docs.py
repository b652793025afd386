"""The documentation of the API as one page without a script, from the OpenAPI document."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from html import escape
from typing import Any

from bp_ui.api import stream

STYLE = """
:root{color-scheme:light dark;--ink:light-dark(#1c1f1a,#e9ebe4);--soft:light-dark(#5c6357,#a3aa9b);--line:light-dark(#dcded6,#333830);--go:light-dark(#2c5d3f,#7fc79a)}
body{margin:0 auto;max-width:54rem;padding:2.5rem 1.25rem 6rem;font:16px/1.6 system-ui,sans-serif;color:var(--ink);background:light-dark(#fbfbf9,#141613)}
h1{letter-spacing:-.02em;margin:0}h2{margin:3rem 0 .5rem;font-size:1.1rem;text-transform:capitalize}
details{border-top:1px solid var(--line)}summary{padding:.6rem 0;cursor:pointer;display:flex;gap:.9rem;flex-wrap:wrap;align-items:baseline}
code,pre{font-family:ui-monospace,monospace;font-size:.875rem}b{font:600 .75rem ui-monospace,monospace;color:var(--go);min-width:4em}
summary span{color:var(--soft);font-size:.9rem}pre{overflow:auto;padding:.8rem 1rem;border-radius:.5rem;background:light-dark(#f1f2ed,#1c1f1a);white-space:pre-wrap}
table{border-collapse:collapse;width:100%;font-size:.9rem}td,th{text-align:left;padding:.3rem .8rem .3rem 0;vertical-align:top;border-bottom:1px solid var(--line)}
:focus-visible{outline:2px solid var(--go);outline-offset:2px}a{color:var(--go)}
"""


def page(spec: Mapping[str, Any], root: str) -> str:
    """The page.

    Args:
        spec: the OpenAPI document.
        root: path in front of every address.
    """
    groups: dict[str, list[str]] = {}
    for path, methods in spec["paths"].items():
        for method, about in methods.items():
            groups.setdefault((about.get("tags") or ["other"])[0], []).append(
                _operation(path, method, about, spec)
            )
    body = "".join(f"<h2>{escape(tag)}</h2>{''.join(items)}" for tag, items in groups.items())
    told = escape(inspect.cleandoc(stream.__doc__ or ""))
    return f"""<!doctype html><html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width,initial-scale=1"><title>API · Backprop</title><style>{STYLE}</style></head>
<body><main><h1>API of Backprop</h1><p>{escape(spec["info"]["description"])} The document for programs:
<a href="{escape(root)}/api/openapi.json">openapi.json</a>. With a password, send it as HTTP Basic or as
<code>Authorization: Bearer USER:PASS</code>.</p><h2>Stream</h2><pre>{told}</pre>{body}</main></body></html>
"""


def _operation(path: str, method: str, about: Mapping[str, Any], spec: Mapping[str, Any]) -> str:
    rows = [
        (p["name"], p["in"], _type(p.get("schema", {})), p.get("required", False))
        for p in about.get("parameters", [])
    ]
    for kind, content in about.get("requestBody", {}).get("content", {}).items():
        schema = _followed(content.get("schema", {}), spec)
        needed = schema.get("required", [])
        for name, field in schema.get("properties", {}).items():
            rows.append((name, "body", _type(field), name in needed))
        if not schema.get("properties"):
            rows.append((kind, "body", _type(schema), True))
    cells = "".join(
        f"<tr><td><code>{escape(n)}</code></td><td>{escape(w)}</td><td>{escape(t)}</td><td>{'needed' if r else ''}</td></tr>"
        for n, w, t, r in rows
    )
    table = f"<table><tr><th>name</th><th>in</th><th>type</th><th></th></tr>{cells}</table>" if rows else ""
    told = escape(about.get("description") or about.get("summary") or "")
    return f"<details><summary><b>{method.upper()}</b><code>{escape(path)}</code><span>{told}</span></summary>{table}</details>"


def _followed(schema: Mapping[str, Any], spec: Mapping[str, Any]) -> Mapping[str, Any]:
    name = str(schema.get("$ref", "")).rpartition("/")[2]
    return spec["components"]["schemas"][name] if name else schema


def _type(schema: Mapping[str, Any]) -> str:
    if "enum" in schema or "const" in schema:
        return " | ".join(map(str, schema.get("enum", [schema.get("const")])))
    if "anyOf" in schema:
        return " | ".join(_type(s) for s in schema["anyOf"])
    return str(schema.get("$ref", "")).rpartition("/")[2] or str(schema.get("type", "any"))
