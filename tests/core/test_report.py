"""The report of a run: whole, self-contained, escaped, and true for runs that failed."""

import re
from html.parser import HTMLParser

import pytest
from bp_core.errors import BpError
from bp_core.runs.report import write_report
from bp_core.runs.store import RunStore

EVIL = "<script>alert(1)</script>&\"'"


class Page(HTMLParser):
    """Collects text, tags and links; fails on a tag that is closed out of order."""

    VOID = frozenset({"meta", "br", "img", "input", "link"})

    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.words, self.open = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [v for k, v in attrs if k in ("href", "src")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(self.words)


def recorded(tmp_path, **result):
    store = RunStore(tmp_path)
    run = store.create(
        config={"lora": {"rank": 16, "alpha": 32}, "training": {"learning_rate": 2e-4}},
        sources={"lora.rank": "given", "lora.alpha": "default", "training.learning_rate": "environment"},
        environment={"python": "3.11", "packages": {"torch": "2.13.0"}, "memory_total": 24e9},
        dataset={
            "accepted": 90,
            "rejected": 3,
            "rejections": {"blank_turn": 3},
            "sources": [{"source": EVIL, "bytes": 7}],
        },
        base_model={"ref": EVIL},
        seed=42,
        name=EVIL,
    )
    for step in range(1, 51):
        run.metric(step, loss=3.0 / step, grad_norm=1.0, learning_rate=1e-4)
    run.metric(0, heldout_loss=3.0)
    run.metric(50, heldout_loss=1.0)
    (run.path / "adapter").mkdir()
    run.artifact("adapter", run.path / "adapter", rank=16)
    run.artifact("gguf", run.path / "gone (1).gguf")
    run.event("OOM_RECOVERED", EVIL)
    run.finish("completed", {"steps": 50, "tokens": 1234567, "seconds": 75.0, **result})
    return store, run


def test_everything_is_there(tmp_path):
    answers = [{"prompt": f"Q {EVIL}", "before": EVIL, "after": " 42 ", "expected": "42", "trained": False}]
    store, run = recorded(
        tmp_path,
        heldout_loss_before=3.0,
        heldout_loss_after=1.0,
        exact_match_before=0.0,
        exact_match_after=0.95,
        answers=answers,
    )
    path = write_report(store, run.run_id[:15])
    assert path == run.path / "report.html"
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    for words in (
        "completed", run.run_id, "seed 42", "1\u202f234\u202f567", "1 min 15 s", "Held-out loss", "3.0000", "1.0000",
        "95.0%", "better", "not trained on", "42  ✓", "Expected", "lora.rank", "given", "environment",
        "1 settings at their defaults", "rejections.blank turn", "OOM_RECOVERED", "torch", "24.00 GB", "no longer there",
    ):  # fmt: skip
        assert words in page.text, words
    assert page.links == ["adapter"]
    assert page.tags.count("svg") == 3


def test_nothing_runs_and_nothing_is_loaded(tmp_path):
    store, run = recorded(tmp_path, answers=[{"prompt": EVIL, "before": EVIL, "after": EVIL}], error=EVIL)
    text = write_report(store, run.run_id).read_text(encoding="utf-8")
    assert "<script" not in text
    assert "default-src 'none'" in text
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text)
    assert Page(text).text.count("<script>alert(1)</script>") >= 6, "shown as text, wherever it stood"


def test_a_failed_run_has_a_report_too(tmp_path):
    store = RunStore(tmp_path)
    with pytest.raises(ValueError), store.create() as run:
        run.metric(1, loss=float("nan"))
        raise ValueError("the cause")
    page = Page(write_report(store, run.run_id).read_text(encoding="utf-8"))
    assert "failed" in page.text
    assert "the cause" in page.text
    assert "nothing recorded" in page.text
    assert "1 values are not finite" in page.text


def test_a_running_run_and_another_folder(tmp_path):
    store = RunStore(tmp_path / "out")
    with store.create() as run:
        run.artifact("report", run.path / "x y.html")
        (run.path / "x y.html").write_text("")
        run.flush()
        path = write_report(store, run.run_id, tmp_path / "elsewhere" / "page.html")
        page = Page(path.read_text(encoding="utf-8"))
    assert "running" in page.text
    assert page.links == [f"../out/{run.run_id}/x%20y.html"]
    with pytest.raises(BpError):
        write_report(store, "none")
