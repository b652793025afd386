"""Secrets never reach a log line, the run store, a manifest or a report.

- Three nets, because each has holes: the name of the key (`hub_token=…`), the shape of the value (`hf_…`, JWT,
  PEM, the user of a URL), and the literal values of secret-looking environment variables of this process, and of those
  that it was told (`conceal`), also as JSON and URLs spell them.
- `token` alone names a secret only where it is one: `pad_token`, `eos_token`, `max_tokens` and
  `tokens_per_second` are what a training log is made of and stay readable.
- What is hidden becomes `***`; a vendor's prefix stays (`hf_***`), so that one sees which kind of secret it was.

- What a run needs to go on (paths, model and data references) keeps all but real tokens: `redact(…, needed=True)`.

Limit: a secret of no known shape, under a harmless name, that is in no environment variable, is not found.
"""

from __future__ import annotations

import functools
import json
import os
import re
import urllib.parse
from collections.abc import Mapping
from typing import Any

HIDDEN = "***"

_NAMES = (
    r"(?:api[_-]?keys?|secrets?|secret[_-]?(?:access[_-]?)?key|passwords?|passwd|pwd(?![\"']?\s*[=:]\s*[\"']?(?:[/~]|[A-Za-z]:[\\/]))|passphrase|credentials?"
    r"|private[_-]?key|access[_-]?key(?:[_-]?id)?|authorization|cookie)"
)
_SUFFIXED = (
    r"(?:(?:hub|hf|hugging_?face_?hub|hugging_?face|api|access|auth|bearer|refresh|session|launch|wandb|mlflow"
    r"|tracking|github|gh|gitlab|ollama|openai|user|secret|security|deploy|write|read|csrf|login)[_-]?token)"
)
_KEY = re.compile(rf"(?:^|[_.-])(?:{_NAMES}|{_SUFFIXED}|auth)$|^token$", re.IGNORECASE)
# Keys that end like a secret and hold a file's path, a flag or a count.
_NOT_KEY = re.compile(r"(?:_file|_path|_name|_env|_mode)$", re.IGNORECASE)

# Names under which a run's record holds what resume and replay look up again.
_NEEDED = frozenset(
    [
        "model",
        "init_adapter",
        "revision",
        "data",
        "heldout",
        "map",
        "chat_template",
        "output",
        "log_file",
        "ref",
        "source",
        "path",
        "adapter_path",
    ]
)
_FOLDERS = ("PWD", "OLDPWD", "HOME")  # of every shell; the first two look like passwords

_TOKENS: tuple[tuple[re.Pattern[str], str], ...] = (
    (
        re.compile(
            r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL
        ),
        HIDDEN,
    ),
    (re.compile(r"\b(hf_|api_org_)[A-Za-z0-9]{16,}"), rf"\1{HIDDEN}"),
    (re.compile(r"\b(sk-(?:proj-|ant-|or-)?)[A-Za-z0-9_-]{16,}"), rf"\1{HIDDEN}"),
    (re.compile(r"\b(gh[pousr]_|github_pat_|glpat-)[A-Za-z0-9_-]{16,}"), rf"\1{HIDDEN}"),
    (re.compile(r"\b(AKIA|ASIA)[0-9A-Z]{16}\b"), rf"\1{HIDDEN}"),
    (re.compile(r"\b(AIza)[0-9A-Za-z_-]{30,}"), rf"\1{HIDDEN}"),
    (re.compile(r"\b(xox[abprs]-)[0-9A-Za-z-]{10,}"), rf"\1{HIDDEN}"),
    (re.compile(r"\b(wandb_v\d+_)[A-Za-z0-9_]{16,}"), rf"\1{HIDDEN}"),
    (re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*"), HIDDEN),  # a JSON web token
    (re.compile(r"\b((?:Bearer|Basic|Token)\s+)[A-Za-z0-9._~+/=-]{8,}"), rf"\1{HIDDEN}"),
    (re.compile(r"\b([a-z][a-z0-9+.-]*://)[^/\s?#\"'<>]*@", re.IGNORECASE), rf"\1{HIDDEN}@"),
    (
        re.compile(
            r"([?&](?:[a-z0-9_-]*(?:token|signature|credential)|(?:api[_-]?)?key|sig|code)=)(?!\*\*\*)[^&\s\"'#]+",
            re.IGNORECASE,
        ),
        rf"\1{HIDDEN}",
    ),
)
_NAMED: tuple[tuple[re.Pattern[str], str], ...] = (
    # name=value, name: value, "name": "value", --name value
    (
        re.compile(
            rf"((?:\b|_)(?:{_NAMES}|{_SUFFIXED})\\*[\"']?\s*[=:]\s*\\*[\"']?)(?!\*\*\*)[^\s\\\"',;&}}]+",
            re.IGNORECASE,
        ),
        rf"\1{HIDDEN}",
    ),
    # `token` alone is also a word of the trade ("token: 17"): only a long value is a secret
    (
        re.compile(r"(\btoken\\*[\"']?\s*[=:]\s*\\*[\"']?)[A-Za-z0-9._~+/-]{12,}", re.IGNORECASE),
        rf"\1{HIDDEN}",
    ),
    (
        re.compile(
            rf"(--(?:{_NAMES}|{_SUFFIXED}|token|auth)(?:=|\s+)[\"']?)(?![-*])[^\s\"']+",
            re.IGNORECASE,
        ),
        rf"\1{HIDDEN}",
    ),
)


def is_secret_name(name: str) -> bool:
    """Whether a setting, header or environment variable of this name holds a secret.

    >>> [is_secret_name(n) for n in ("HF_TOKEN", "hub_token", "pad_token", "max_tokens", "token_file")]
    [True, True, False, False, False]
    """
    return bool(_KEY.search(name)) and not _NOT_KEY.search(name)


def environment_secrets(environ: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """Values of the environment that are secrets, longest first; of this process with what it was told to conceal.

    Names of variables are taken wider than keys of settings: whatever ends in KEY, TOKEN, PASS, …

    Left alone whatever the name: values under 8 characters, plain words, paths. They would hide what is no secret.
    """
    told = _concealed_values if environ is None else ()
    environ = os.environ if environ is None else environ
    values = {
        v
        for k, v in environ.items()
        if k not in _FOLDERS and (is_secret_name(k) or _is_secret_variable(k)) and not _common(v)
    }
    return tuple(sorted({*values, *told}, key=len, reverse=True))


_VARIABLE = re.compile(
    r"(?:TOKEN|KEY|SECRET|PASS|PASSWORD|PASSWD|PASSPHRASE|PASSCODE|CREDENTIALS?|PAT|AUTH|DSN)S?$",
    re.IGNORECASE,
)
_WORDS_OF_TRAINING = re.compile(
    r"(?:^|_)(?:PAD|EOS|BOS|UNK|SEP|CLS|MASK|MAX|MIN|NUM|STOP)_?TOKENS?$", re.IGNORECASE
)


def _is_secret_variable(name: str) -> bool:
    return bool(_VARIABLE.search(name)) and not _WORDS_OF_TRAINING.search(name)


_concealed_values: set[str] = set()


def conceal(value: str) -> None:
    """Hide this value from now on wherever this process redacts: a secret whose variable has a name of the user's own."""
    if not _common(value):
        _concealed_values.add(value)


@functools.lru_cache(maxsize=256)
def _spelt(secret: str) -> tuple[str, ...]:
    """A secret as it may stand in a text: plain, in JSON, in a URL; the longest first."""
    forms = {
        secret,
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        urllib.parse.quote(secret, safe=""),
        urllib.parse.quote(secret),
        urllib.parse.quote_plus(secret),
    }
    return tuple(sorted(forms, key=len, reverse=True))


def _common(value: str) -> bool:
    """Whether a value is too short, a plain word, or a path of this machine."""
    if len(value) < 8 or (value.isalpha() and value.islower() and len(value) < 12):
        return True
    first = value.split("/")[1] if value.startswith("/") and value.count("/") > 1 else ""
    return (
        value.startswith(("~/", "./", "../"))
        or bool(re.match(r"[A-Za-z]:[\\/]", value))
        or os.path.exists(value)  # noqa: PTH110 - Path.exists raises where a secret is too long for a file name
        or bool(first and os.path.isdir("/" + first))  # noqa: PTH112
    )


def redact_text(text: str, secrets: tuple[str, ...] | None = None) -> str:
    """A text with every secret in it hidden.

    Args:
        text: a log line, a traceback, a command line.
        secrets: literal values to hide; those of the present environment unless given.

    >>> redact_text("login with hf_abcdefghijklmnopqrstuv, eos_token=</s>", ())
    'login with hf_***, eos_token=</s>'
    """
    for secret in environment_secrets() if secrets is None else secrets:
        for form in _spelt(secret):
            if form in text:
                text = text.replace(form, HIDDEN)
    for pattern, shown in (*_TOKENS, *_NAMED):
        text = pattern.sub(shown, text)
    return text


def _reference(value: Any, secrets: tuple[str, ...]) -> Any:
    """A path, model or data reference: real tokens and a URL's secrets go, what finds it again stays."""
    if isinstance(value, list | tuple):
        return [_reference(v, secrets) for v in value]
    if not isinstance(value, str):
        return redact(value, secrets, needed=True)
    if "://" in value:
        return redact_text(value, secrets)
    for pattern, shown in _TOKENS:
        value = pattern.sub(shown, value)
    return value


def _concealed(value: Any, *, inside: bool = False) -> Any:
    """What stands under a secret's name: hidden; in a structure counts stay, as in `secrets: {"aws_key": 3}`."""
    if isinstance(value, Mapping):
        return {k: _concealed(v, inside=True) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_concealed(v, inside=True) for v in value]
    if value in (None, "", False, True) or (inside and isinstance(value, int) and abs(value) < 10**6):
        return value
    return HIDDEN


def redact(value: Any, secrets: tuple[str, ...] | None = None, *, needed: bool = False) -> Any:
    """Any nested plain data with every secret in it hidden; numbers and structure stay as they are.

    Args:
        value: plain data.
        secrets: literal values to hide; those of the present environment unless given.
        needed: it is a run's record, from which the run goes on: paths, model and data references lose real tokens
            alone.
    """
    found = environment_secrets() if secrets is None else secrets
    if isinstance(value, str):
        return redact_text(value, found)
    if isinstance(value, Mapping):
        return {
            (redact_text(k, found) if isinstance(k, str) and len(k) >= 16 else k): _reference(v, found)
            if needed and k in _NEEDED and isinstance(v, str | list | tuple)
            else _concealed(v)
            if is_secret_name(str(k))
            else redact(v, found, needed=needed)
            for k, v in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [redact(v, found, needed=needed) for v in value]
    return value
