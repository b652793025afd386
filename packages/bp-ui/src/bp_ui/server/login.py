"""The page of the login: one form, no script."""

from __future__ import annotations

from html import escape

STYLE = """
:root{color-scheme:light dark}
body{margin:0;min-height:100vh;display:grid;place-items:center;font:16px/1.5 system-ui,sans-serif;background:light-dark(#f6f6f3,#141613);color:light-dark(#1c1f1a,#e9ebe4)}
form{width:min(20rem,calc(100vw - 3rem));display:grid;gap:1rem}
h1{font-size:1.35rem;margin:0;letter-spacing:-.01em}
label{display:grid;gap:.3rem;font-size:.875rem}
input,button{font:inherit;padding:.6rem .75rem;border-radius:.5rem;border:1px solid light-dark(#b9bdb2,#4a4f45);background:light-dark(#fff,#1c1f1a);color:inherit}
button{background:light-dark(#2c5d3f,#7fc79a);color:light-dark(#fff,#10140f);border-color:transparent;font-weight:600;cursor:pointer}
:focus-visible{outline:2px solid light-dark(#2c5d3f,#7fc79a);outline-offset:2px}
p{margin:0;color:light-dark(#a3271e,#ff9c8f)}
"""


def page(prefix: str, told: str = "") -> str:
    """The form, with what went wrong."""
    wrong = f'<p role="alert">{escape(told)}</p>' if told else ""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<title>Log in · Backprop</title><style>{STYLE}</style></head>
<body><main><form method="post" action="{escape(prefix)}/login"><h1>Backprop</h1>{wrong}
<label>User<input name="user" autocomplete="username" autocapitalize="none" required autofocus></label>
<label>Password<input name="password" type="password" autocomplete="current-password" required></label>
<button>Log in</button></form></main></body></html>
"""
