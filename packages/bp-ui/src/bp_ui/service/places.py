"""Where the UI may read and write: the output folder, and the folders that its user opened to it.

- Symbolic links are resolved before a path is judged, so that none leads out.
- Folders of the system and folders that hold keys are refused whatever was opened.
"""

from __future__ import annotations

import dataclasses
import os
import re
import sys
from pathlib import Path

from bp_ui.errors import BpError
from bp_ui.settings import UiSettings

SYSTEM = ("/etc", "/usr", "/bin", "/sbin", "/lib", "/lib64", "/boot", "/sys", "/proc", "/dev", "/run/secrets")
SYSTEM_WINDOWS = (r"C:\Windows", r"C:\Program Files", r"C:\Program Files (x86)", r"C:\ProgramData")
KEYS = (".ssh", ".aws", ".gnupg", ".kube", ".docker", ".azure", ".config", ".password-store", ".netrc")
DATA = (
    ".jsonl",
    ".ndjson",
    ".json",
    ".csv",
    ".tsv",
    ".txt",
    ".md",
    ".parquet",
    ".gz",
    ".zst",
    ".xz",
    ".bz2",
    ".arrow",
)
HUB_DATASET = re.compile(r"hf:[\w-][\w.-]*(/[\w-][\w.-]*){0,2}(:[\w./+%-]*){0,2}")
REMOTE = re.compile(r"[a-z][a-z0-9+]*:(?!\\).*", re.I | re.S)
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclasses.dataclass(frozen=True)
class Places:
    """The folders of a server; all absolute and resolved.

    Attributes:
        output: of runs, uploads, exports; the only folder that is written.
        start: where the UI was started, in which jobs run.
        roots: what may be read.
    """

    output: Path
    start: Path
    roots: tuple[Path, ...]

    @classmethod
    def of(cls, settings: UiSettings) -> Places:
        """The folders that the settings name; the output is made.

        Raises:
            BpError: `UI_OUTPUT_DIR_FORBIDDEN`.
        """
        output = settings.output.expanduser().resolve()
        if why := forbidden(output):
            raise BpError("UI_OUTPUT_DIR_FORBIDDEN", f"{output} {why}", "backprop ui --output ./ui-outputs")
        try:
            for folder in (output, output / "uploads", output / "configs"):
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise BpError(
                "UI_OUTPUT_DIR_FORBIDDEN",
                f"{output} cannot be made: {error.strerror}",
                "backprop ui --output ./ui-outputs",
            ) from None
        start = Path.cwd().resolve()
        opened = [f.expanduser().resolve() for f in settings.folders] or [start]
        return cls(output, start, (output, *opened))

    @property
    def uploads(self) -> Path:
        """Where uploads lie."""
        return self.output / "uploads"

    def readable(self, text: str, *, data: bool = False) -> Path:
        """A path that a user named, resolved, where it may be read.

        Args:
            text: absolute, or relative to the start or the output folder.
            data: only what can be a dataset.

        Raises:
            BpError: `INPUT_UI_PATH_FORBIDDEN`, `INPUT_UI_FILE_TYPE`.
        """
        if not text or "\0" in text:
            raise self._refused(text, "is no path")
        if len(text) > 4000 or any(len(part.encode("utf-8", "replace")) > 255 for part in Path(text).parts):
            raise self._refused(f"{text[:40]}…", "is longer than a path can be")
        given = Path(text)
        bases = (
            [given]
            if given.is_absolute()
            else [self.start / given, self.output / given, self.uploads / given]
        )
        try:
            paths = [p.resolve() for p in bases]
        except (OSError, RuntimeError):
            raise self._refused(text, "cannot be followed") from None
        path = next((p for p in paths if there(p)), paths[0])
        if not any(path == r or r in path.parents for r in self.roots):
            raise self._refused(text, "lies outside the folders that the UI may read")
        if why := forbidden(path, reading=True):
            raise self._refused(text, why)
        if data and path.suffix.lower() not in DATA and not path.is_dir():
            raise BpError(
                "INPUT_UI_FILE_TYPE",
                f"{path.name} is of no type that a dataset can have",
                f"name a file of {', '.join(DATA)}",
            )
        return path

    def dataset(self, text: str) -> str:
        """What a user named as a dataset: a file or folder that may be read, or an id of the Hub.

        Raises:
            BpError: `INPUT_UI_PATH_FORBIDDEN`, `INPUT_UI_FILE_TYPE`.
        """
        if not REMOTE.fullmatch(text):
            return str(self.readable(text, data=True))
        if not HUB_DATASET.fullmatch(text) or ".." in text:
            raise self._refused(text[:200], "is no file and no hf:OWNER/NAME")
        return text

    def writable(self, *parts: str) -> Path:
        """A path in the output folder from safe names.

        Raises:
            BpError: `INPUT_UI_NAME`, `INPUT_UI_PATH_FORBIDDEN`.
        """
        for part in parts:
            safe_name(part)
        path = self.output.joinpath(*parts).resolve()
        if self.output not in path.parents:
            raise self._refused("/".join(parts), "leads out of the output folder")
        return path

    def shown(self, path: Path | str) -> str:
        """A path as people read it: relative where it lies in a folder of ours."""
        full = Path(path)
        for base in (self.start, self.output):
            if full.is_absolute() and full.is_relative_to(base):
                return full.relative_to(base).as_posix() or "."
        return str(path)

    def _refused(self, text: str, why: str) -> BpError:
        return BpError(
            "INPUT_UI_PATH_FORBIDDEN",
            f"{text!r} {why}",
            "backprop ui --folder ./data",
            details={"path": text},
        )


def there(path: Path) -> bool:
    """Whether a path leads to something; one that no file system takes does not."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def safe_name(name: str) -> str:
    """A name that may become a file's.

    Raises:
        BpError: `INPUT_UI_NAME`.
    """
    if not NAME.fullmatch(name) or name.endswith((".", " ")):
        raise BpError(
            "INPUT_UI_NAME",
            f"{name[:80]!r} cannot be a name: letters, digits, . _ and -",
            "choose another name",
        )
    return name


def forbidden(path: Path, *, reading: bool = False) -> str:
    """Why a resolved path must not be used, "" where it may."""
    text = os.path.normcase(str(path))
    for folder in SYSTEM if sys.platform != "win32" else SYSTEM_WINDOWS:
        low = os.path.normcase(folder)
        if text == low or text.startswith(low + os.sep):
            return "is a folder of the system"
    if any(part.lower() in KEYS or part.lower().startswith(".env") for part in path.parts):
        return "is a folder of keys and settings"
    if not reading and (path.parent == path or path == Path.home().resolve()):
        return "is the root, or a home folder itself"
    return ""
