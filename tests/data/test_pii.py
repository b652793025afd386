"""Secrets and personal data: what must be found, what must not, and that redaction leaves nothing."""

import re
import time

import pytest
from bp_data import Example, Turn, clean, report
from bp_data.excerpt import excerpt
from bp_data.privacy import pii
from bp_data.privacy.every_text import every_text, map_texts
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
    "aws_secret": "aws_secret_access_key = " + (BODY + "/x+Q")[:40],
    "azure_key": "AccountName=a;AccountKey=" + (BODY * 3)[:86] + "==",
    "azure_sas": "https://a.blob.core.windows.net/c?sv=2024&sig=" + (BODY * 2)[:43] + "%3D",
    "slack_webhook": "https://hooks.slack.com/services/T0ABCDEFG/B0ABCDEFG/" + BODY[:24],
    "telegram_token": "bot 123456789:AA" + BODY[:33],
    "twilio_key": "SK" + "0a1b2c3d4e5f6789" * 2,
    "bearer_token": "Authorization: Bearer " + BODY,
    "url_password": "postgres://ann:tG7kq29Lm@db.corp.io/x",
    "password": 'DB_PASSWORD = "tG7#kq29Lm"',
    "private_key": f"-----BEGIN RSA PRIVATE KEY-----\n{BODY}\n{BODY}\nab3=\n-----END RSA PRIVATE KEY-----",
    "email": "ann.lee+x@corp-mail.co.uk",
    "phone": "(415) 555-2671",
    "card": "4111 1111 1111 1111",
    "iban": "GB29 NWBK 6016 1331 9268 19",
    "ssn": "536-22-8726",
    "ipv4": "8.8.8.8",
    "ipv6": "2001:4860:4860::8888",
}


@pytest.mark.parametrize(("kind", "value"), POSITIVE.items(), ids=POSITIVE)
def test_found_and_redacted(kind, value):
    text = f"é before {value} after"
    (found,) = pii.scan([text])[0]
    assert found.kind == kind, "the gates let it through"
    redacted = pii.redact(text)
    assert redacted.startswith("é before ")
    assert redacted.endswith(" after")
    assert f"[{kind.upper()}]" in redacted
    assert ("tG7kq29Lm" if kind == "url_password" else value[-12:]) not in redacted
    assert pii.find(redacted) == []


def test_every_kind_has_a_case():
    assert set(POSITIVE) == {*pii.SECRET_KINDS, *pii.PII_KINDS}


NEGATIVE = {
    "aws_key": ["AKIAIOSFODNN7EXAMPLE", "xAKIAQWERTYUIOPASDF2J"],
    "aws_secret": ["aws_secret_access_key = os.environ['KEY']", "secret_key: " + "a" * 40],
    "azure_key": ["AccountKey=<your key>", "AccountKey=" + "A" * 86 + "=="],
    "azure_sas": ["sig=abc%3D", "?sig=" + "A" * 43 + "%3D"],
    "github_token": ["ghp_" + "a" * 36, "ghp_short"],
    "gitlab_token": ["glpat-short"],
    "anthropic_key": ["sk-ant-api03-short"],
    "openai_key": ["sk-learn", "sk-" + BODY],
    "huggingface_token": ["hf_hub", "hf_hub_download_with_a_very_long_name_indeed"],
    "google_key": ["AIzaShort"],
    "slack_token": ["xoxb-short"],
    "slack_webhook": ["https://hooks.slack.com/services/", "https://hooks.slack.com/services/T00000000/B00000000/xxx"],
    "stripe_key": ["sk_live_short", "sk_live_" + "x" * 24],
    "npm_token": ["npm_config", "npm_run_build"],
    "pypi_token": ["pypi-AgEshort"],
    "sendgrid_key": ["SG.short.short"],
    "telegram_token": ["12345678:AAshort", "00:AA:11"],
    "twilio_key": ["SK" + "0" * 32, "SKU 12345"],
    "jwt": ["eyJhbGciOiJIUzI1NiJ9.payload.signature", "they.eye"],
    "bearer_token": ["the bearer of good news", "Bearer YOUR_ACCESS_TOKEN_GOES_HERE", "Bearer " + "a" * 40],
    "url_password": ["https://x.org:8080/a@b", "postgres://user:password@localhost/x", "redis://:${REDIS_PASSWORD}@h"],
    "password": [
        "password: str = None", "password=password", "password = os.environ['PASSWORD']", "password = input()",
        "password must contain 8 characters", "pwd=$(pwd)/a1b2", "private_key = RSA.generate(2048)",
        "secret = sha256(x2y)", "access_token=YOUR_TOKEN_123", "api_version=2024-01-01", "authors: smith2020",
        "password = args.password2", '{"password": {"type": "string"}}', 'password: "changeme123"',
        "token = tokenizer.encode(x)", "tokens: 512", "--password <password>",
    ],
    "private_key": [
        "A PEM begins with -----BEGIN PRIVATE KEY----- and ends with -----END PRIVATE KEY-----.",
        "if '-----BEGIN RSA PRIVATE KEY-----' in text: return True",
        "-----BEGIN PUBLIC KEY-----\n" + BODY + "\n-----END PUBLIC KEY-----",
    ],
    "email": [
        "me@example.com", "git clone git@github.com:a/b.git", "logo@2x.png", "react@18.2.0", "@app.route('/')",
        "q@k.transpose(1)", "ann@host.local", "a @ b.c", "@types/node@18.1.0",
    ],
    "phone": ["In 2019 and 2020, 415 people bought 555 things for 2671 dollars"],
    "card": [
        "4111 1111 1111 1112", "0000 0000 0000 0000", "The sum of 1234567 and 7654321 is 8888888.",
        "0.4111111111111111", "30569309025905", "1700000000000",
    ],
    "iban": ["GB29 NWBK 6016 1331 9268 18", "XX29 NWBK 6016 1331 9268 19", "GB29 NWBK 6016 1331 9268"],
    "ssn": ["123-45-6789", "000-12-3456", "666-12-3456", "2024-01-02", "536-22-87265"],
    "ipv4": [
        "192.168.1.10 and 10.0.0.1 and 127.0.0.1", "version 8.8.8.8", "v8.8.8.8", "1.2.3.4.5", "999.999.999.999",
        "torch==1.2.3.4", "Chrome/120.0.0.1", "lib-1.2.3.4.tar.gz", "Section 2.1.3.4", '__version__ = "3.5.0.1"',
    ],
    "ipv6": ["2001:db8::1", "std::fe::ad", "x[::2]", "fe80::1", "2024:10:11", "12:30:45"],
}  # fmt: skip


@pytest.mark.parametrize("kind", NEGATIVE)
def test_not_found(kind):
    assert {text: pii.find(text) for text in NEGATIVE[kind] if pii.find(text)} == {}
    assert not any(pii.scan(NEGATIVE[kind]))


def test_every_kind_has_a_case_that_does_not_count():
    assert set(NEGATIVE) == set(POSITIVE)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("30569309025904", "card"),  # Diners
        ("3852 0000 0232 37", "card"),
        ("3530111333300000", "card"),  # JCB
        ("6200000000000005", "card"),  # UnionPay
        ("6759649826438453", "card"),  # Maestro
        ("5018 0000 0009", "card"),  # Maestro of twelve digits
        ("2223003122003222", "card"),
        ("DE89370400440532013000", "iban"),
        ("ann@bücher.de", "email"),
        ("ann@例子.公司", "email"),
        ("почта@пример.рф", "email"),
        ("ann@xn--bcher-kva.de", "email"),
        ("xapp-1-A0" + BODY, "slack_token"),
        ("whsec_" + BODY, "stripe_key"),
        ("PASSWORD=hunter2hunter", "password"),
        ('{\\"password\\": \\"S3cret-Pa55\\"}', "password"),
        ("redis://:tG7kq29Lm@10.0.0.1:6379", "url_password"),
        ("ghp_" + BODY[:9] + "\u200b" + BODY[9:], "github_token"),
        ("4111\u00ad1111 1111\u200e 1111", "card"),
        ("\u202eann@cor\u2060p.io", "email"),
    ],
)
def test_also_found(value, kind):
    assert [f.kind for f in pii.scan([f"x {value} y"])[0]] == [kind]
    assert f"[{kind.upper()}]" in pii.redact(f"x {value} y")
    assert pii.find(pii.redact(value)) == []


def test_what_stands_beside_a_value_is_kept():
    assert pii.redact("写信给ann@corp.io谢谢你") == "写信给[EMAIL]谢谢你"
    assert pii.redact(POSITIVE["password"]) == 'DB_PASSWORD = "[PASSWORD]"'
    assert pii.redact(POSITIVE["url_password"]) == "postgres://ann:[URL_PASSWORD]@db.corp.io/x"


LINE = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7VJTUt9Us8cKj"
KEY = ["-----BEGIN {0}PRIVATE KEY{1}-----", LINE, LINE, "ab3=", "-----END {0}PRIVATE KEY{1}-----"]


@pytest.mark.parametrize("name", ["", "RSA ", "EC ", "OPENSSH ", "ENCRYPTED ", "PGP ", "DSA "])
@pytest.mark.parametrize(
    "join",
    ["\n", "\r\n", "\\n", "\\\\n", "\n    ", "\n> ", "\n# ", " ", '\\n" +\n  "', "\n\u200b"],
)
@pytest.mark.parametrize("ended", [True, False])
def test_a_private_key_goes_whole(name, join, ended):
    lines = KEY if ended else KEY[:-1]
    block = join.join(lines).format(name, " BLOCK" if name == "PGP " else "")
    redacted = pii.redact(f"before\n{block}\nafter it, prose")
    assert redacted.startswith("before\n[PRIVATE_KEY]")
    assert redacted.endswith("after it, prose")
    assert "MII" not in redacted
    if join != " " or ended:  # a short last piece after a blank could be a word
        assert "ab3" not in redacted


def test_headers_of_a_private_key_go_and_prose_stays():
    head = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,12AB\n\n"
    assert pii.redact(head + LINE + "\n" + LINE[:30]) == "[PRIVATE_KEY]"
    talk = "-----BEGIN PRIVATE KEY-----\n" + LINE + "\nAnd now something completely different, in words. "
    redacted = pii.redact(talk + "-----END PRIVATE KEY-----")
    assert redacted.startswith("[PRIVATE_KEY]\nAnd now something completely different, in words.")
    two = "\n".join(KEY).format("", "")
    assert pii.redact(f"{two} and {two}") == "[PRIVATE_KEY] and [PRIVATE_KEY]"


SECRET = POSITIVE["github_token"]
SAY = (Turn("user", "hello you"), Turn("assistant", "hi there"))


def call(arguments):
    return ({"type": "function", "id": "c1", "function": {"name": "f", "arguments": arguments}},)


def tool(**schema):
    return {"type": "function", "function": {"name": "f", "parameters": {"type": "object", **schema}}}


PLACES = {
    "system prompt": {"turns": (Turn("system", f"use {SECRET}"), *SAY)},
    "user turn": {"turns": (Turn("user", SECRET), SAY[1])},
    "answer": {"turns": (SAY[0], Turn("assistant", f"it is {SECRET}"))},
    "tool turn": {"turns": (*SAY, Turn("tool", SECRET, tool_call_id="c1"))},
    "tool call id": {"turns": (*SAY, Turn("tool", "x", tool_call_id=SECRET))},
    "reasoning": {"turns": (SAY[0], Turn("assistant", "hi", reasoning=f"so {SECRET}"))},
    "turn name": {"turns": (Turn("user", "hi", name=SECRET), SAY[1])},
    "call argument": {"turns": (SAY[0], Turn("assistant", "", tool_calls=call({"a": {"b": [SECRET]}})))},
    "call argument name": {"turns": (SAY[0], Turn("assistant", "", tool_calls=call({SECRET: 1})))},
    "tool description": {"turns": SAY, "tools": ({"function": {"name": "f", "description": f"key {SECRET}"}},)},
    "tool name": {"turns": SAY, "tools": ({"function": {"name": SECRET}},)},
    "tool default": {"turns": SAY, "tools": (tool(properties={"k": {"type": "string", "default": SECRET}}),)},
    "tool enum": {"turns": SAY, "tools": (tool(properties={"k": {"enum": ["a", SECRET]}}),)},
    "extra column": {"turns": SAY, "meta": {"note": f"see {SECRET}"}},
    "nested extra column": {"turns": SAY, "meta": {"a": [{"b": (SECRET,)}]}},
    "extra column's name": {"turns": SAY, "meta": {f"k {SECRET}": "x"}},
    "id": {"turns": SAY, "id": SECRET},
    "chosen": {"kind": "preference", "turns": SAY[:1], "chosen": (Turn("assistant", SECRET),), "rejected": SAY[1:]},
    "rejected": {"kind": "preference", "turns": SAY[:1], "chosen": SAY[1:], "rejected": (Turn("assistant", SECRET),)},
    "reference": {"kind": "prompt", "turns": SAY[:1], "reference": {"answer": SECRET}},
    "text": {"kind": "text", "text": f"a text with {SECRET} in it"},
}  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
def test_a_secret_is_found_and_taken_out_wherever_it_stands(place, tmp_path):
    row = Example(**{"id": "r1", "source": "m", "line": 1, "kind": "chat", **PLACES[place]})
    assert report([row]).pii["secrets"] == {"github_token": 1}
    cleaned = clean([row], redact=True)
    assert cleaned.redacted == 1
    assert SECRET not in repr(cleaned.kept)
    assert "[GITHUB_TOKEN]" in repr(cleaned.kept)
    assert not report(cleaned.kept).pii["secrets"]
    output, _ = cleaned.write(tmp_path / "out.jsonl")
    assert SECRET not in output.read_text()


def test_every_field_of_a_row_is_walked():
    """A field that is added to Example or Turn is walked, or named here as one that holds no text of the row's."""
    import dataclasses

    from bp_data.privacy import every_text as module

    assert {f.name for f in dataclasses.fields(Example)} - set(module._EXAMPLE) == {
        "source", "line", "kind", "label", "task", "told",
    }  # fmt: skip
    assert {f.name for f in dataclasses.fields(Turn)} - set(module._TURN) == {"role", "train"}


def test_what_a_key_called_password_holds_is_one():
    row = Example(
        "r1", "m", 1, "chat", (SAY[0], Turn("assistant", "", call({"password": "tG7#kq29Lm", "user": "ann"})))
    )
    assert report([row]).pii["secrets"] == {"password": 1}
    kept = clean([row], redact=True).kept[0].turns[1].tool_calls[0]["function"]["arguments"]
    assert kept == {"password": "[PASSWORD]", "user": "ann"}
    assert pii.find("changeme", name="password") == pii.find("a long sentence 1", name="password") == []


def test_a_card_that_is_a_number():
    row = Example("r1", "m", 1, "chat", SAY, meta={"card": 4111111111111111, "at": 1700000000000, "n": 3})
    assert clean([row], redact=True).kept[0].meta == {"card": "[CARD]", "at": 1700000000000, "n": 3}


def test_two_keys_that_held_secrets_stay_two():
    meta = {SECRET: 1, SECRET[:-1] + "Q": 2}
    row = Example("r1", "m", 1, "chat", SAY, meta=meta)
    assert sorted(clean([row], redact=True).kept[0].meta.values()) == [1, 2]


def test_a_walk_that_changes_nothing_builds_nothing():
    row = Example("r1", "m", 1, "chat", SAY, meta={"a": [1, {"b": "c"}]})
    assert map_texts(row, lambda text, name: text) is row
    assert "c" in every_text(row)[0]


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
    "piece",
    [
        "a", "1 ", "a.", "ey", "(1) ", "eyJhbGciOiJIUzI1NiIsInR5.ey", "sk-", "ghp_", "password=", "://a:", "://:b",
        "-----BEGIN PRIVATE KEY-----\n", "-----BEGIN PRIVATE KEY-----\n" + LINE + "\n", "-----BEGIN ", "bearer a",
        "2001:", "a@", "a@b.", "1-", "123-45-", "AKIA", "\u200b", "a\u200b", "\u202e", "🙂", "QUJD", "function(a){", "xox",
        "GB29", "1.", ":AA", "sig=", "é@", "İ=secret",
    ],
)  # fmt: skip
def test_time_grows_with_the_length_alone(piece):
    """Sixteen times the text takes about sixteen times as long: a quadratic pattern would take 256 times."""

    def seconds(size):
        text = piece * (size // len(piece))
        best = 9.0
        for _ in range(3):
            began = time.process_time()
            pii.find(text)
            best = min(best, time.process_time() - began)
        return best

    assert seconds(80_000) < 64 * max(seconds(5_000), 1e-4)


@given(st.lists(st.text(alphabet="0123456789.- \nab:é", max_size=40), max_size=6))
def test_the_digit_gate_lets_through_whatever_holds_numbers(texts):
    """Ten digits within 24 characters, three dots between digits, or the shape of a social security number."""
    wanted = [
        any(sum(c.isdigit() for c in t[i : i + 24]) >= 10 for i in range(len(t)))
        or len(re.findall(r"(?<=[0-9])\.(?=[0-9])", t)) >= 3
        or bool(re.search(r"(?=[0-9]{3}-[0-9]{2}-[0-9]{4})", t))
        for t in texts
    ]
    if texts:
        assert pii.digit_rows(texts).tolist() == wanted


def test_an_id_is_scanned_where_the_row_has_one_and_not_where_the_reader_made_it():
    own = Example("AKIAQYLPMN5HHHFPZAM2", "a.jsonl", 1, "text", text="x")
    made = Example("AKIAQYLPMN5HHHFPZAM2.jsonl:1", "AKIAQYLPMN5HHHFPZAM2.jsonl", 1, "text", text="x")
    assert every_text(own)[0] == ["AKIAQYLPMN5HHHFPZAM2", "x"]
    assert every_text(made)[0] == ["x"]


def test_the_excerpt_of_a_refused_row_shows_no_secret():
    token = "".join(["gl", "dt-", "a1B2c3D4e5F6g7H8i9J0"])  # in pieces: this file holds no key
    for text in (
        f"token {token}",
        "card 4111 1111 1111 1111",
        'password = "hunter2!hunter"',
        "postgres://ann:hunter2!hunter@db.corp.io/x",
        "x" * 380 + " " + token,  # cut before its end
    ):
        shown = excerpt(text)
        assert not any(part in shown for part in (token[:12], "4111", "hunter2"))
    assert excerpt("skyscrapers SKYSCRAPERS xoxo SG. Africa") == "skyscrapers SKYSCRAPERS xoxo SG. Africa"
