"""Secrets are hidden wherever they stand; the words of training are not."""

import json
from urllib.parse import quote, quote_plus

import pytest
from bp_core.support.redact import (
    HIDDEN,
    conceal,
    environment_secrets,
    is_secret_name,
    redact,
    redact_text,
)
from hypothesis import given
from hypothesis import strategies as st

HF = "hf_" + "AbCdEfGhIj" * 3
SECRETS = [
    HF,
    "sk-proj-" + "a1B2" * 8,
    "ghp_" + "x" * 36,
    "github_pat_" + "y" * 40,
    "AKIAIOSFODNN7EXAMPLE",
    "AIza" + "k" * 35,
    "xoxb-123456789012-abcdef",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl",
    "-----BEGIN RSA PRIVATE KEY-----\nMIIE\nabc\n-----END RSA PRIVATE KEY-----",
]


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize(
    "around", ["{}", "login failed with {} at host", '{{"x": "{}"}}', "a={},b=1", "({})"]
)
def test_known_shapes(secret, around):
    shown = redact_text(around.format(secret), ())
    assert secret not in shown
    assert HIDDEN in shown
    assert secret[-8:] not in shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Authorization: Bearer abcdefgh12345", "Authorization: *** ***"),
        ("curl -H 'X: Bearer abcdefgh12345'", "curl -H 'X: Bearer ***'"),
        ("https://me:pa55@hub.example/x", "https://***@hub.example/x"),
        ("https://only-a-token@hub.example/x", "https://***@hub.example/x"),
        ("https://me:p@ss@hub.example/x@1", "https://***@hub.example/x@1"),
        ("https://h/x?n=1&X-Amz-Signature=0f0f&m=2", "https://h/x?n=1&X-Amz-Signature=***&m=2"),
        ("https://h/x?key=0f0f", "https://h/x?key=***"),
        (r'{"event": "{\"api_key\": \"abc\"}"}', r'{"event": "{\"api_key\": \"***\"}"}'),
        ("password=hunter2 user=me", "password=*** user=me"),
        ("api_key: 'abc', n=1", "api_key: '***', n=1"),
        ('{"secret": "abc"}', '{"secret": "***"}'),
        ("WANDB_API_KEY=0123456789", "WANDB_API_KEY=***"),
        ("HF_TOKEN=whatever", "HF_TOKEN=***"),
        ("train --hub-token abc --steps 3", "train --hub-token *** --steps 3"),
        ("ui --auth me:pw", "ui --auth ***"),
        ("train --hub-token --steps 3", "train --hub-token --steps 3"),
        (f"token={HF}", "token=hf_***"),
    ],
)
def test_named_values(text, shown):
    assert redact_text(text, ()) == shown


@pytest.mark.parametrize(
    "text",
    [
        "pad_token=<pad> eos_token=<|im_end|> token: 151643",
        "tokens_per_second=1234.5 max_tokens=2048 num_tokens: 99",
        "step 10 loss 2.31 lr 2e-04",
        "DEP_MODEL_LOAD_FAILED: auth: 401 for Qwen/Qwen2.5-7B-Instruct",
        "https://hub.example:8080/path",
        "https://hub.example/x?page=2&keys=3",
        "https://hub.example/model@main and me@example.org",
        "sk-learn and skip; hf_hub; the secretary's keyboard",
        "sha256 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "20261121-073455-a1b2c3",
    ],
)
def test_the_words_of_training_stay(text):
    assert redact_text(text, ()) == text


def test_structures():
    value = {
        "hub_token": "abc",
        "pad_token": "<pad>",
        "token_file": "/run/token",
        "max_tokens": 5,
        "password": None,
        "api_key": True,
        "nested": [{"secret": 123}, f"see {HF}"],
        "secrets": {"aws_key": 3, "excerpt": "open sesame", "rows": [1, 2]},
    }
    assert redact(value, ()) == {
        "hub_token": "***",
        "pad_token": "<pad>",
        "token_file": "/run/token",
        "max_tokens": 5,
        "password": None,
        "api_key": True,
        "nested": [{"secret": "***"}, "see hf_***"],
        "secrets": {"aws_key": 3, "excerpt": "***", "rows": [1, 2]},  # a report counts them
    }


def test_values_of_the_environment_are_hidden_anywhere():
    env = {
        "MY_SERVICE_PASSWORD": "correct horse",
        "HF_TOKEN": "shorty",
        "PATH": "/usr/bin:/bin",
        "EOS_TOKEN": "</s></s>",
    }
    found = environment_secrets(env)
    assert found == ("correct horse",)
    assert redact_text("the correct horse battery", found) == "the *** battery"


@given(
    st.text(),
    st.text(alphabet="abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOP0123456789", min_size=20, max_size=40),
)
def test_a_token_is_hidden_in_any_text_and_redaction_settles(text, body):
    secret = f"hf_{body}"
    once = redact_text(f"{text} {secret} {text}", ())
    assert secret not in once
    assert redact_text(once, ()) == once


@pytest.mark.parametrize(
    "name", ["HF_TOKEN", "hub-token", "AWS_SECRET_ACCESS_KEY", "db.password", "x_api_key", "token"]
)
def test_secret_names(name):
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name", ["pad_token", "tokens", "author", "key", "monkey", "token_file", "authority", "bos_token"]
)
def test_harmless_names(name):
    assert not is_secret_name(name)


def test_variables_are_taken_wider_than_keys():
    named = ("NPM_TOKEN", "OPENAI_KEY", "DB_PASS", "PGPASSWORD", "GH_PAT", "SENTRY_DSN", "MY_CREDENTIALS")
    env = {name: f"s3cret-{name.lower()}-1" for name in named}
    assert set(environment_secrets(env)) == set(env.values())
    harmless = {"PAD_TOKEN": "<|endoftext|>", "MAX_TOKENS": "12345678", "SSH_AUTH_SOCK": "/tmp/agent.1"}
    assert environment_secrets(harmless) == ()


def test_a_literal_is_hidden_as_json_and_urls_spell_it():
    secret = 'a"b\\c d-ü'
    for form in (
        secret,
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        quote(secret, safe=""),
        quote_plus(secret),
    ):
        assert redact_text(f"x {form} y", (secret,)) == "x *** y"


def test_what_was_concealed_is_hidden_in_keys_too():
    conceal("no-shape-at-all-7")
    assert redact({"by no-shape-at-all-7": ["no-shape-at-all-7"]}) == {"by ***": ["***"]}
    conceal("word")  # hides nothing: it is too short
    assert redact_text("a word") == "a word"
