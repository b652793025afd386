"""Rewards that compare a text with the expected answer: exact, normalised, contained, by shared words."""

from __future__ import annotations

from collections import Counter
from typing import Any, Literal

from bp_core.rewards.reward import Case, reward
from bp_core.rewards.text import answers, final_answer, said, words

Where = Literal["final", "whole"]


def _part(completion: str, answer_in: str) -> str:
    return final_answer(completion) if answer_in == "final" else completion.strip()


def _accepted(reference: Any) -> list[str]:
    return [final_answer(a) for a in answers(reference)]


@reward(
    cases=(
        Case("Paris", 1.0, "Paris"),
        Case(" Paris\n", 1.0, "Paris", why="outer blanks do not count"),
        Case("paris", 0.0, "Paris"),
        Case("It is <answer>Paris</answer>", 1.0, "Paris", why="the marked answer"),
        Case("It is <answer>Paris</answer>", 0.0, "Paris", parameters={"answer_in": "whole"}),
        Case("2", 1.0, 2, why="a number is compared as it is written"),
        Case("NYC", 1.0, ["New York", "NYC"], why="a list names several accepted answers"),
        Case("", 0.0, "Paris"),
    )
)
def exact_match(completion: str, *, reference: Any, answer_in: Where = "final") -> float:
    r"""1 where the answer is the reference, character for character, else 0.

    The answer is what the text marks as one (`<answer>`, `<SOLUTION>`, `\boxed{}`, `####`, "answer: "), else all of it;
    the reference is read the same way. With `answer_in = "whole"` marks count as text.
    """
    part = _part(completion, answer_in)
    accepted = _accepted(reference) if answer_in == "final" else [a.strip() for a in answers(reference)]
    return float(part in accepted)


@reward(
    cases=(
        Case("the Eiffel Tower.", 1.0, "Eiffel tower"),
        Case("EIFFEL-TOWER", 1.0, "Eiffel Tower"),
        Case("<SOLUTION>1,000</SOLUTION>", 1.0, "1000"),
        Case("3.5", 0.0, "35", why="a point inside a number stays"),
        Case("-5", 0.0, "5"),
        Case("Tower", 0.0, "Eiffel Tower"),
        Case("", 0.0, "Paris"),
        Case("A", 1.0, "(a)", why="a letter alone is no article"),
        Case("?", 0.0, "!", why="nothing is left to compare"),
        Case("Ｐａｒｉｓ", 1.0, "Paris", why="NFKC"),
    )
)
def normalized_match(completion: str, *, reference: Any, answer_in: Where = "final") -> float:
    """1 where answer and reference are the same after case, punctuation, articles and blanks are taken away, else 0.

    SQuAD's normalisation (arXiv:1606.05250), over Unicode; signs that change a value stay.
    """
    part = words(_part(completion, answer_in))
    return float(bool(part) and any(part == words(a) for a in _accepted(reference)))


@reward(
    cases=(
        Case("I think that it is Paris, in France.", 1.0, "Paris"),
        Case("It is Parisian.", 0.0, "Paris", why="whole words"),
        Case("<think>Paris or Rome?</think>Rome", 0.0, "Paris", why="thinking is no answer"),
        Case("<think>Paris or", 0.0, "Paris", why="nor is thinking that never ends"),
        Case("New or York", 0.0, "New York", why="in one piece"),
        Case("In the city of NYC", 1.0, ["New York", "NYC"]),
        Case("Paris " * 3 + "word " * 60, 0.0, "Paris", parameters={"max_words": 50}),
        Case("", 0.0, "Paris"),
    )
)
def contains_answer(completion: str, *, reference: Any, max_words: int = 0) -> float:
    """1 where the normalised reference stands in the text in one piece, as whole words, else 0.

    A text that lists everything wins this; `max_words` > 0 refuses a longer text.
    """
    text = words(said(completion))
    if 0 < max_words < len(text):
        return 0.0
    joined = f" {' '.join(text)} "
    wanted = [" ".join(words(a)) for a in _accepted(reference)]
    return float(any(w and f" {w} " in joined for w in wanted))


@reward(
    cases=(
        Case("the cat sat", 1.0, "cat sat"),
        Case("cat", 2 / 3, "cat sat", why="precision 1, recall 1/2"),
        Case("cat cat cat", 0.4, "cat sat", why="a word counts as often as both have it"),
        Case("dog", 0.0, "cat"),
        Case("", 0.0, "cat"),
        Case("cat", 1.0, ["dog", "cat"], why="the best of the accepted answers"),
    )
)
def token_f1(completion: str, *, reference: Any, answer_in: Where = "final") -> float:
    """Partial credit: the F1 of the words that answer and reference share, 0 to 1 (SQuAD, arXiv:1606.05250).

    F1 = 2·shared / (words of the answer + words of the reference), after normalisation.
    """
    part = Counter(words(_part(completion, answer_in)))
    best = 0.0
    for accepted in _accepted(reference):
        other = Counter(words(accepted))
        total = part.total() + other.total()
        best = max(best, 2 * (part & other).total() / total if total else 0.0)
    return best
