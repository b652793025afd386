"""Token counts: exact with a tokenizer, a stated estimate without, the same whether counted at once or ahead."""

import numpy as np
import pytest
from bp_data.common import BpError
from bp_data.example import Example
from bp_data.report.report import report
from bp_data.tokens import CountsAhead, TokenCounter, distribution, histogram
from bp_data.validation import validate
from hypothesis import given
from hypothesis import strategies as st


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """A word-level tokenizer that would truncate and pad, as many stored ones do."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    made = Tokenizer(WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    made.pre_tokenizer = Whitespace()
    made.enable_truncation(4)
    made.enable_padding(length=4)
    path = tmp_path_factory.mktemp("tokenizer")
    made.save(str(path / "tokenizer.json"))
    return path


def test_the_estimate_is_bytes_over_four():
    assert TokenCounter().count(["abcd" * 10, "é" * 4, "", "abcde"]).tolist() == [10, 2, 0, 2]
    assert TokenCounter().estimated


def test_stored_truncation_and_padding_are_off(tokenizer):
    for path in (tokenizer, tokenizer / "tokenizer.json"):
        counter = TokenCounter(path)
        assert counter.count(["a a a a a a a", "a", ""]).tolist() == [7, 1, 0]
        assert not counter.estimated


def test_counted_ahead_is_counted_in_order(tokenizer):
    batches = [["a " * (7 * i + j) for j in range(i % 5)] for i in range(20)]
    for counter in (TokenCounter(), TokenCounter(tokenizer)):
        ahead = CountsAhead(counter)
        for batch in batches:
            ahead.add(batch)
        expected = np.concatenate([counter.count(batch) for batch in batches])
        assert ahead.finish().tolist() == expected.tolist()
        ahead.close()


def test_the_report_counts_with_the_tokenizer(tokenizer):
    rows = [Example(f"r{i}", "mem", i, "text", text="a " * i) for i in range(1, 1200)]
    found = report(rows, tokenizer=tokenizer).tokens
    assert (found["count"], found["max"], found["estimated"]) == (1199 * 1200 // 2, 1199, False)
    assert found["p50"] == 600
    estimate = report(rows).tokens
    assert estimate["estimated"]
    assert "bytes / 4" in estimate["how"]


def test_distribution_and_histogram():
    counts = TokenCounter().count(["x" * n for n in range(1, 400)])
    found = distribution(counts)
    assert (found["count"], found["p50"], found["max"]) == (int(counts.sum()), 50, 100)
    assert sum(n for _, _, n in histogram(counts)) == 399
    assert distribution(counts[:0])["count"] == 0
    assert histogram(counts[:0]) == []


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=50))
def test_every_row_is_in_one_bar(counts):
    bars = histogram(np.array(counts))
    assert sum(n for _, _, n in bars) == len(counts)
    assert all(low < high for low, high, _ in bars)


def test_bad_tokenizers_are_refused(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    for path in (tmp_path, tmp_path / "absent.json"):
        with pytest.raises(BpError) as error:
            TokenCounter(path)
        assert error.value.code == "INPUT_TOKENIZER_INVALID"
    with pytest.raises(BpError) as error:
        validate([], tokenizer=tmp_path)
    assert error.value.hint == "use --max-length 2048"
