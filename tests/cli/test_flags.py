"""No flag of any command vanishes: scripts of users rely on them."""

from __future__ import annotations

from flags import all_flags, listed


def test_no_command_and_no_flag_vanishes():
    assert sorted(listed() - all_flags()) == []


def test_the_list_is_of_use():
    assert {"backprop train --data", "backprop export -q", "bp-data validate --json"} <= listed()
