"""No flag of any command vanishes: scripts of users rely on them."""

from __future__ import annotations

from flags import LIST, all_flags


def test_no_flag_vanishes_and_a_new_one_is_written_down():
    listed, here = set(LIST.read_text("utf-8").split("\n")) - {""}, set(all_flags())
    assert sorted(listed - here) == [], "these commands and flags are gone"
    assert sorted(here - listed) == [], "these are new: python tests/flags.py"
