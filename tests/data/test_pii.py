"""Secrets and personal data: what must be found, what must not, and that redaction leaves nothing."""

import pytest
from bp_data import pii
from hypothesis import given, settings
from hypothesis import strategies as st

BODY = "Zx8Kq2mV7bN4tR6yW1pL9dF3gH5jS0aQcEuT"  # 36 characters
POSITIVE = {
    "aws_key": "AKIAQWERTYUIOPASDF2J",
    "github_token": "ghp_" + BODY,
    "gitlab_token": "glpat-" + BODY[:20],
    "anthropic_key": "sk-ant-api03-" + (BODY * 3)[:93] + "AA",
    "openai_key": "sk-proj-" + BODY[:20] + "T3BlbkFJ" + BODY[:20],
    "huggingface_token": "hf_" + "ZxKqmVbNtRyWpLdFgHjSaQcEuTzXkQMvBn",
    "google_key": "AIza" + BODY[:35],
    "slack_token": "xoxb-" + BODY[:24],
    "stripe_key": "sk_" + "live_" + BODY[:24],
    "npm_token": "npm_" + BODY,
    "pypi_token": "pypi-AgEIcHlwaS5vcmc" + (BODY * 2)[:60],
    "sendgrid_key": "SG." + BODY[:22] + "." + (BODY * 2)[:43],
    "jwt": "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0." + BODY,
    "private_key": "-----BEGIN RSA PRIVATE KEY-----",
    "email": "ann.lee+x@corp-mail.co.uk",
    "phone": "(415) 555-2671",
    "card": "4111 1111 1111 1111",
    "ipv4": "8.8.8.8",
}


@pytest.mark.parametrize(("kind", "value"), POSITIVE.items(), ids=POSITIVE)
def test_found_and_redacted(kind, value):
    text = f"é before {value} after"
    assert [f.kind for f in pii.scan([text])[0]] == [kind], "the gates let it through"
    assert pii.redact(text) == f"é before [{kind.upper()}] after"


def test_every_kind_has_a_case():
    assert set(POSITIVE) == {*pii.SECRET_KINDS, *pii.PII_KINDS}


@pytest.mark.parametrize(
    "text",
    [
        "AKIAIOSFODNN7EXAMPLE",
        "ghp_" + "a" * 36,
        "me@example.com",
        "4111 1111 1111 1112",
        "0000 0000 0000 0000",
        "192.168.1.10 and 10.0.0.1 and 127.0.0.1",
        "version 8.8.8.8",
        "1.2.3.4.5",
        "The sum of 1234567 and 7654321 is 8888888.",
        "In 2019 and 2020, 415 people bought 555 things for 2671 dollars",
        "999.999.999.999",
        "sk-learn and hf_hub and npm_config",
    ],
)
def test_not_found(text):
    assert pii.find(text) == []


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text("0123456789 .-()+@aA_é\n", max_size=60), min_size=1, max_size=6))
def test_gates_change_nothing(texts):
    """Scanning with the numpy gate gives what the patterns alone give."""
    assert pii.scan(texts) == [pii.find(text) for text in texts]


def test_redaction_is_complete():
    text = " ".join(POSITIVE.values())
    assert pii.find(pii.redact(text)) == []


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from([*POSITIVE.values(), "555", "-", " ", "4", "+1 ", "."]), max_size=8))
def test_nothing_is_found_in_what_was_redacted(parts):
    redacted = pii.redact("".join(parts))
    assert pii.find(redacted) == []
    assert pii.redact(redacted) == redacted


def test_a_card_among_other_numbers():
    for text in (
        "order 2671 4111 1111 1111 1111 12",
        "555-2671 4111-1111-1111-1111",
        "4111111111111111 2026",
    ):
        assert [f.kind for f in pii.find(text)] == ["card"], text


@pytest.mark.parametrize(
    "text", ["a" * 50_000, "1 " * 20_000, "a." * 20_000 + "@", "ey" * 20_000, "(1) " * 9_000]
)
def test_no_text_is_slow(text):
    import time

    began = time.process_time()
    pii.find(text)
    assert time.process_time() - began < 5
