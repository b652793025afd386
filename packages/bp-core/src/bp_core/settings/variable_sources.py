"""What `.env` and the environment say, found by pydantic-settings: PREFIX + GROUP__FIELD as nested values."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, create_model
from pydantic_settings import BaseSettings, DotEnvSettingsSource, EnvSettingsSource, SettingsConfigDict

from bp_core.settings.knobs import GROUPS
from bp_core.settings.variables import PREFIX


class _Prefixed(BaseSettings):
    model_config = SettingsConfigDict(env_prefix=PREFIX, env_nested_delimiter="__", extra="forbid")


_FIELDS: Any = {group: (cls, Field(default_factory=cls)) for group, cls in GROUPS.items()}
_Tree = create_model("_Tree", __base__=_Prefixed, **_FIELDS)


def of_dotenv(file: Path) -> tuple[Mapping[str, Any], dict[str, str | None]]:
    """The nested values of a `.env` file, and its variables by lower-case name."""
    source = DotEnvSettingsSource(_Tree, env_file=file)
    return source(), dict(source.env_vars)


def of_process() -> Mapping[str, Any]:
    """The nested values of the process's environment."""
    return EnvSettingsSource(_Tree)()
