"""What a table of provoked failures is held to: the package's own class, the code, the cause, a hint that is one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest
from hints import problem


def provoke(caught_by: type[Exception], code: str, cause: str, call: Callable[[], Any]) -> Any:
    """Call and return the error: of the class that users catch, with the code, the cause, and a hint that is one."""
    with pytest.raises(caught_by) as caught:
        call()
    error: Any = caught.value
    told = f"{error} (hint: {error.hint})"
    assert error.code == code, told
    assert cause in error.message, told
    assert "\n" not in error.message, told
    assert not (why := problem(error.hint)), f"{told}: {why}"
    return error


def without_a_row(codes: Iterable[str], rows: Mapping[str, tuple[str, Any]]) -> set[str]:
    """Codes that no row of a table provokes."""
    return set(codes) - {row[0] for row in rows.values()}
