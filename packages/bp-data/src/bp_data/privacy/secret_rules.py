"""The table of secrets: what each looks like, and who says so.

- One `Rule` per kind: the characters and literals that open it, the pattern that must match there, and its source.
- A pattern is tried only where one of its literals stands, so a text costs one search per literal, whatever it holds.
- Every quantifier is bounded and no two neighbours match the same character, so a try is short on any text.
- Only the group `v` is the secret where there is one: the words around it stay readable after redaction.
- Why a table of our own: detect-secrets 1.5 has no rule for Azure connection strings, SAS, Slack apps, Hugging Face,
  Google or Anthropic, takes 26 ms per 2 kB row where this takes some 20 µs, and calls random words secrets by entropy;
  gitleaks' rules are Go regular expressions inside a binary wheel. Their documented shapes are the source here.
"""

from __future__ import annotations

import re
from typing import NamedTuple


class Rule(NamedTuple):
    """How one kind of secret is found.

    Args:
        kind: its name; redaction writes it in capitals.
        mark: the text must hold this character, or nothing of the rule is looked for; where it is not one character
            (several: any of them), the literals are looked for in any case of letters.
        starts: literals where the pattern is tried.
        pattern: matched at the literal.
        source: where its shape is documented.
        entropy: least Shannon entropy of the value, in bits per character.
        checked: whether the value may be a placeholder (`changeme`, `<password>`), which is no finding.
    """

    kind: str
    mark: str
    starts: tuple[str, ...]
    pattern: re.Pattern[str]
    source: str
    entropy: float = 3.0
    checked: bool = False


def _rule(
    kind: str, mark: str, starts: str, pattern: str, source: str, entropy: float = 3.0, checked: bool = False
) -> Rule:
    return Rule(kind, mark, tuple(starts.split("|")), re.compile(pattern, re.ASCII), source, entropy, checked)


_FREE = r"(?<![A-Za-z0-9])"  # what stands before a key is no letter or digit
# `password = "…"`, `"password": "…"`, `DB_PASSWORD=…`: quoted, or a bare word that ends where a value ends.
_ASSIGNED = (
    r"(?:password|passwd|passphrase|pwd|secret|api[_-]?key|access[_-]?key|auth[_-]?token|access[_-]?token|private[_-]?key)"
    r"(?:_?[A-Za-z0-9]{1,12}){0,3}\\?[\"'`]?\]?\s{0,3}(?::=|=>|[:=])\s{0,3}"
    r"(?:\\?[\"'`](?P<v>[^\s\"'`<>{}\[\]\\]{8,200})\\?[\"'`]"
    r"|(?P<w>[^\s\"'`<>{}()\[\],;\\$]{8,200})(?=[\s,;\\]|$))"
)
_GITLEAKS = "gitleaks.toml: "

RULES: tuple[Rule, ...] = (
    _rule("aws_key", "A", "AKIA|ASIA|ABIA|ACCA", _FREE + r"[A-Z]{4}[A-Z2-7]{16}(?![A-Za-z0-9])",
          "docs.aws.amazon.com/IAM/latest/UserGuide/reference_identifiers.html"),
    _rule("aws_secret", "=:", "secret",
          r"(?i:secret[_-]?(?:access[_-]?)?key)\\?[\"']?\s{0,3}[:=]\s{0,3}\\?[\"']?(?P<v>[A-Za-z0-9+/]{40})(?![A-Za-z0-9+/=])",
          "docs.aws.amazon.com/cli/latest/userguide/cli-configure-files.html", 4.0),
    _rule("azure_key", "=", "AccountKey=|SharedAccessKey=", r"[A-Za-z]{10,15}=(?P<v>[A-Za-z0-9+/]{42,86}={1,2})",
          "learn.microsoft.com/azure/storage/common/storage-configure-connection-string", 4.0),
    _rule("azure_sas", "=", "sig=", r"(?<=[?&;])sig=(?P<v>[A-Za-z0-9%+/]{40,80}(?:%3[Dd]|=))",
          "learn.microsoft.com/rest/api/storageservices/create-service-sas", 3.5),
    _rule("github_token", "_", "ghp_|gho_|ghs_|ghu_|ghr_", _FREE + r"gh[opsur]_[A-Za-z0-9]{36,255}(?![A-Za-z0-9])",
          "docs.github.com/authentication/keeping-your-account-and-data-secure/about-authentication-to-github"),
    _rule("github_token", "_", "github_pat_", _FREE + r"github_pat_\w{22,255}", _GITLEAKS + "github-fine-grained-pat"),
    _rule("gitlab_token", "-", "glpat-|gldt-|glrt-|glptt-|glcbt-|glsoat-", _FREE + r"gl[a-z]{2,4}-[\w-]{20,300}",
          "docs.gitlab.com/security/tokens/#token-prefixes"),
    _rule("anthropic_key", "-", "sk-ant-", _FREE + r"sk-ant-(?:api|admin|oat)\d\d-[\w-]{80,120}",
          _GITLEAKS + "anthropic-api-key"),
    _rule("openai_key", "-", "sk-", _FREE + r"sk-(?:proj-|svcacct-|admin-|service-)?[\w-]{10,200}?T3BlbkFJ[\w-]{10,200}",
          _GITLEAKS + "openai-api-key"),
    _rule("huggingface_token", "_", "hf_|api_org_", _FREE + r"(?:hf_|api_org_)[A-Za-z0-9]{34}(?![A-Za-z0-9])",
          _GITLEAKS + "huggingface-access-token"),
    _rule("google_key", "A", "AIza", _FREE + r"AIza[\w-]{35}(?![\w-])", _GITLEAKS + "gcp-api-key"),
    _rule("slack_token", "x", "xox|xapp-",
          _FREE + r"(?:xox[abposre][-.](?:xox[bp]-)?|xapp-)[\w-]{10,255}", "api.slack.com/authentication/token-types"),
    _rule("slack_webhook", "/", "hooks.slack.com/",
          r"hooks\.slack\.com/(?P<v>(?:services|workflows|triggers)/[\w+/-]{20,120})",
          "api.slack.com/messaging/webhooks"),
    _rule("stripe_key", "_", "sk_live_|rk_live_|sk_test_|rk_test_", _FREE + r"[sr]k_(?:live|test)_[A-Za-z0-9]{10,247}",
          "docs.stripe.com/keys"),
    _rule("stripe_key", "_", "whsec_", _FREE + r"whsec_[A-Za-z0-9+/]{30,80}={0,2}", "docs.stripe.com/webhooks"),
    _rule("npm_token", "_", "npm_", _FREE + r"npm_[A-Za-z0-9]{36}(?![A-Za-z0-9])", _GITLEAKS + "npm-access-token"),
    _rule("pypi_token", "-", "pypi-AgE", _FREE + r"pypi-AgE[\w-]{50,1000}", "docs.pypi.org/api/secret-scanning"),
    _rule("sendgrid_key", ".", "SG.", _FREE + r"SG\.[\w-]{16,32}\.[\w-]{30,64}", _GITLEAKS + "sendgrid-api-token"),
    _rule("telegram_token", ":", ":AA", r"(?<=\d{8}):(?P<v>AA[\w-]{33})(?![\w-])", "core.telegram.org/bots/api"),
    _rule("twilio_key", "S", "SK", _FREE + r"SK[0-9a-f]{32}(?![0-9A-Za-z])", _GITLEAKS + "twilio-api-key"),
    _rule("jwt", ".", "eyJ", r"(?<![\w-])eyJ\w{10,2000}\.ey[\w-]{10,8000}\.[\w-]{10,2000}", "RFC 7519"),
    _rule("bearer_token", "", "bearer ", r"(?i:bearer) {1,3}(?P<v>[A-Za-z0-9._~+/-]{20,2000}={0,2})", "RFC 6750", 3.5, True),
    _rule("url_password", "@", "://", r"://[^\s:/@\"'`<>\[\]{}]{0,64}:(?P<v>[^\s/@\"'`<>\[\]{}]{3,128})@[\w\[]",
          "RFC 3986, 3.2.1", 1.5, True),
    _rule("password", "=:", "passw|passp|pwd|secret|api|access|auth|private", "(?i:" + _ASSIGNED + ")",
          _GITLEAKS + "generic-api-key", 2.5, True),
)  # fmt: skip

SECRET_KINDS = (*dict.fromkeys(rule.kind for rule in RULES), "private_key")
# Literals that a key itself begins with; two letters are too few to tell one from a word.
KEY_BEGINNINGS = tuple(
    start
    for rule in RULES
    if rule.pattern.pattern.startswith(_FREE)
    for start in rule.starts
    if len(start) > 2
)
SECRET_NAME = re.compile(
    r"(?i:(?:^|[_\W])(?:password|passwd|passphrase|pwd|secret|api[_-]?key|auth[_-]?token|access[_-]?token))$"
)

_PLACEHOLDER = re.compile(
    r"(?i:example|placeholder|redacted|change_?me|replace|your|dummy|sample|xxx|\*\*\*|\.\.\.|…|insert|todo|12345678"
    r"|^(?:pass|test|foo|bar|secret|token|user|admin|root|guest|postgres|mysql|mongo|none|null|true|false|abc)"
    r"(?:word|phrase|wd|key)?[\d!]{0,4}$)"
)
_NAMES = re.compile(
    r"[A-Za-z_][\w.\-/:]*\(?|[A-Z_\d]+|[\w.-]*(?:password|passwd|secret|token|key)[\w.-]*", re.ASCII
)


def is_placeholder(value: str) -> bool:
    """Whether a value only stands for a secret: `changeme`, `${PASSWORD}`, `your-key-here`.

    Example:
        >>> is_placeholder("your_api_key"), is_placeholder("tG7#kq29Lm")
        (True, False)
    """
    return value[:1] in "$%<{[(" or bool(_PLACEHOLDER.search(value))


def looks_typed(value: str, quoted: bool) -> bool:
    """Whether an assigned value is a literal secret and not code: it mixes letters with digits.

    A quoted value needs letters and one digit or punctuation mark; a bare one both letters and digits, and must not
    read as a name, a path or a call.

    Example:
        >>> looks_typed("hunter2hunter", False), looks_typed("self.config", False), looks_typed("os.getenv", True)
        (True, False, False)
    """
    letters, digits = any(map(str.isalpha, value)), any(map(str.isdigit, value))
    if quoted:
        return letters and (digits or not value.replace("_", "").replace("-", "").replace(".", "").isalnum())
    if not (letters and digits) or "(" in value or "://" in value or value[0] in "/.~@":
        return False
    return not (_NAMES.fullmatch(value) and ("." in value or "_" in value))
