"""Reading answers and numbers out of texts."""

from fractions import Fraction

import pytest
from bp_core.rewards.catalogue.choices import chosen
from bp_core.rewards.text import answers, final_answer, marked_answer, normalized, number_of


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<SOLUTION> 72 </SOLUTION>", "72"),
        ("<answer>1</answer> no: <answer>2</answer>", "2"),
        ("<SOLUTION>a</SOLUTION><answer>b</answer>", "a"),
        (r"thus \boxed{\frac{1}{2}} holds", r"\frac{1}{2}"),
        (r"\boxed{1} then \boxed{2", "2"),
        ("<think>#### 1</think>2", None),
        ("1+1=2\n#### 2\nbye", "2"),
        ("The answer is 42.", "42"),
        ("**Answer:** 42", "42"),
        ("the answer is 1\nThe answer is: 2", "2"),
        ("answers vary", None),
        ("</answer> <answer>", None),
        ("", None),
    ],
)
def test_the_marked_answer(text, answer):
    assert marked_answer(text) == answer
    assert final_answer(text) == (text.rpartition("</think>")[2].strip() if answer is None else answer)


@pytest.mark.parametrize(
    ("value", "number"),
    [
        ("72", 72),
        (72, 72),
        (0.1, Fraction(1, 10)),
        ("1,234,567.5", Fraction("1234567.5")),
        ("-3", -3),
        ("10-3", 3),
        ("−3 °C", -3),
        ("2e3", 2000),
        ("1.5e-3 m", Fraction("0.0015")),
        ("3/4", Fraction(3, 4)),
        (r"\frac{-3}{4}", Fraction(-3, 4)),
        (r"-\dfrac{3}{4}", Fraction(-3, 4)),
        (".5", Fraction(1, 2)),
        ("$18.00", 18),
        ("50%", 50),
        ("x2 = 3", 3),
        ("1,5 km", Fraction(3, 2)),
        ("1/0", None),
        ("none", None),
        ("", None),
        (True, None),
        (None, None),
        (float("nan"), None),
        (float("inf"), None),
        ("1" * 301, None),
        ("9" * 300, Fraction("9" * 300)),
        ([3], 3),
    ],
)
def test_the_number_of_a_value(value, number):
    found = number_of(value)
    assert (found[0] if found else None) == number


@pytest.mark.parametrize(
    ("text", "plain"),
    [("The  Cat!", "cat"), ("U.S.A", "u s a"), ("3.50", "3.50"), ("a-b", "b"), ("1,000 €", "1000 €"), ("ÉTÉ", "été"), ("the", "the"), ("Hepatitis A.", "hepatitis a"), ("x_y", "x y"), ("straße", "strasse"), ("हिन्दी", "हिन्दी")],
)  # fmt: skip
def test_normalisation(text, plain):
    assert normalized(text) == plain


@pytest.mark.parametrize(
    ("text", "letter"),
    [("b", "B"), ("(C)", "C"), ("D. because", "D"), ("I think B", "B"), ("A or B", None), ("A cat has B", "B"), ("Z", None), ("", None),
     ("The answer is (D).", "D"), ("**B**", "B"), ("BAD", None)],
)  # fmt: skip
def test_the_chosen_letter(text, letter):
    assert chosen(text, "ABCD") == letter


def test_accepted_answers():
    assert answers(["a", 1]) == ["a", "1"]
    assert answers({"a": 1}) == ['{"a": 1}']
    assert answers([{"a": 1}, "b"]) == ['[{"a": 1}, "b"]']
