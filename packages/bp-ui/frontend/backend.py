"""The build backend: hatchling's, which compiles the pages before it makes a wheel or an sdist.

- Reflex and Node are asked for only where pages must be compiled: not for an editable install, not where the pages that
  are there fit their sources (an sdist carries them).
"""

from __future__ import annotations

from typing import Any

from hatchling.build import *  # noqa: F403
from hatchling.build import build_sdist as _sdist
from hatchling.build import build_wheel as _wheel
from hatchling.build import get_requires_for_build_sdist as _sdist_needs
from hatchling.build import get_requires_for_build_wheel as _wheel_needs
from pages import NEEDS, build_pages, current


def get_requires_for_build_wheel(config_settings: dict[str, Any] | None = None) -> list[str]:
    """What a wheel needs to be built, the compiler of the pages included where it is."""
    return [*_wheel_needs(config_settings), *([] if current() else NEEDS)]


def get_requires_for_build_sdist(config_settings: dict[str, Any] | None = None) -> list[str]:
    """What an sdist needs to be built."""
    return [*_sdist_needs(config_settings), *([] if current() else NEEDS)]


def build_wheel(directory: str, *args: Any, **kwargs: Any) -> str:
    """A wheel with compiled pages."""
    build_pages()
    return _wheel(directory, *args, **kwargs)


def build_sdist(directory: str, *args: Any, **kwargs: Any) -> str:
    """An sdist with compiled pages, so that whoever installs it needs no Node."""
    build_pages()
    return _sdist(directory, *args, **kwargs)
