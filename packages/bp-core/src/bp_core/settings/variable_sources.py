"""What `.env` and the environment say, found by pydantic-settings: PREFIX + GROUP__FIELD as nested values."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field
from pydantic_settings import BaseSettings, DotEnvSettingsSource, EnvSettingsSource, SettingsConfigDict

from bp_core.settings.knobs import (
    DataSettings,
    LoraSettings,
    MethodSettings,
    ModelSettings,
    SafetySettings,
    TrackingSettings,
    TrainingSettings,
)
from bp_core.settings.variables import PREFIX


class _Tree(BaseSettings):
    model_config = SettingsConfigDict(env_prefix=PREFIX, env_nested_delimiter="__", extra="forbid")

    model: ModelSettings = Field(default_factory=ModelSettings)
    data: DataSettings = Field(default_factory=DataSettings)
    method: MethodSettings = Field(default_factory=MethodSettings)
    lora: LoraSettings = Field(default_factory=LoraSettings)
    training: TrainingSettings = Field(default_factory=TrainingSettings)
    safety: SafetySettings = Field(default_factory=SafetySettings)
    tracking: TrackingSettings = Field(default_factory=TrackingSettings)


def of_dotenv(file: Path) -> tuple[Mapping[str, Any], dict[str, str | None]]:
    """The nested values of a `.env` file, and its variables by lower-case name."""
    source = DotEnvSettingsSource(_Tree, env_file=file)
    return source(), dict(source.env_vars)


def of_process() -> Mapping[str, Any]:
    """The nested values of the process's environment."""
    return EnvSettingsSource(_Tree)()
