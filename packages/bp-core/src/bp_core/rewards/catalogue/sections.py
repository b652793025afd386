"""Rewards for the form that a prompt asks for: sections between markers, in order, each once."""

from __future__ import annotations

import itertools

from bp_core.rewards.reward import Case, reward

MARKERS = ("<start_working_out>", "<end_working_out>", "<SOLUTION>", "</SOLUTION>")
_GOOD = "<start_working_out>48/2=24<end_working_out><SOLUTION>72</SOLUTION>"


def sections_share(text: str, markers: tuple[str, ...], *, whole: bool) -> float:
    """Half for the share of markers that stand exactly once, half for all of them in order with text between.

    With `whole`, nothing but blanks may stand outside the sections.
    """
    counts = [text.count(m) for m in markers]
    share = sum(c == 1 for c in counts) / len(markers)
    if share < 1:
        return 0.5 * share
    at = [text.index(m) for m in markers]
    if any(a >= b for a, b in itertools.pairwise(at)):
        return 0.5
    pairs = list(zip(at[::2], markers[::2], at[1::2], strict=False))
    if not all(text[start + len(opening) : end].strip() for start, opening, end in pairs):
        return 0.5
    if whole:
        rest = [text[: at[0]], text[at[-1] + len(markers[-1]) :]]
        closings = zip(at[1::2], markers[1::2], at[2::2], strict=False)
        rest += [text[end + len(closing) : following] for end, closing, following in closings]
        if any(r.strip() for r in rest):
            return 0.75
    return 1.0


@reward(
    cases=(
        Case(_GOOD, 1.0),
        Case("Well. " + _GOOD, 1.0),
        Case("Well. " + _GOOD, 0.75, parameters={"whole": True}, why="text outside the sections"),
        Case("<SOLUTION>72</SOLUTION>", 0.25, why="two of four markers"),
        Case("<SOLUTION>72</SOLUTION><start_working_out>1<end_working_out>", 0.5, why="wrong order"),
        Case(_GOOD + "<SOLUTION>", 0.375, why="one stands twice"),
        Case("<start_working_out><end_working_out><SOLUTION>72</SOLUTION>", 0.5, why="an empty section"),
        Case("72", 0.0),
        Case("", 0.0),
    )
)
def sections_in_order(completion: str, *, markers: tuple[str, ...] = MARKERS, whole: bool = False) -> float:
    """Whether the markers of the prompt's form are there: 1 where all are, once each, in order, with text between.

    0.5 × the share that stands exactly once; 0.5 where all do, but in another order or around nothing; with `whole`
    0.75 where text stands outside. `markers` come in pairs, opening and closing; the default is the form of the prompt
    `working-out`.
    """
    return sections_share(completion, markers, whole=whole)


@reward(
    cases=(
        Case("<think>2+2</think>\n<answer>4</answer>", 1.0),
        Case("So: <think>2+2</think><answer>4</answer>", 0.75),
        Case("<think>2+2</think> 4", 0.25),
        Case("<answer>4</answer><think>2+2</think>", 0.5),
        Case("<think></think><answer>4</answer>", 0.5),
        Case("4", 0.0),
        Case("", 0.0),
    )
)
def think_answer_tags(completion: str, *, think: str = "think", answer: str = "answer") -> float:
    """As `sections_in_order` for `<think>…</think><answer>…</answer>` and nothing outside (DeepSeek-R1, arXiv:2501.12948).

    `think` and `answer` are the names of the tags.
    """
    markers = (f"<{think}>", f"</{think}>", f"<{answer}>", f"</{answer}>")
    return sections_share(completion, markers, whole=True)
