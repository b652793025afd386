"""Datasets: uploads, what may be read, previews, detection, and the jobs on them."""

from __future__ import annotations

import dataclasses
import json
import os
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from bp_ui.errors import BpError
from bp_ui.service.jobs import Jobs
from bp_ui.service.places import DATA, Places, safe_name

MAGIC = {
    ".parquet": b"PAR1",
    ".gz": b"\x1f\x8b",
    ".zst": b"\x28\xb5\x2f\xfd",
    ".xz": b"\xfd7zXZ",
    ".bz2": b"BZh",
}
ROWS = 20
CELL = 2000  # characters of a value shown


class Datasets:
    """The datasets of a server.

    Args:
        places: the folders of the server.
        jobs: starts the long ones.
    """

    def __init__(self, places: Places, jobs: Jobs) -> None:
        self.places, self.jobs = places, jobs

    def list(self) -> list[dict[str, Any]]:
        """Uploaded files and data files of the opened folders (two levels), newest first."""
        found: dict[Path, dict[str, Any]] = {}
        for root in (self.places.uploads, *self.places.roots[1:]):
            for file in _data_files(root):
                about = file.stat()
                found[file] = {
                    "path": str(file),
                    "name": self.places.shown(file),
                    "bytes": about.st_size,
                    "changed_at": about.st_mtime,
                    "uploaded": self.places.uploads in file.parents,
                }
        return sorted(found.values(), key=lambda d: -d["changed_at"])[:500]

    async def upload(self, name: str, chunks: AsyncIterator[bytes]) -> dict[str, Any]:
        """Store an upload as it comes; it gets its name when it is whole.

        Args:
            name: of the file; a taken one gets a number.
            chunks: its bytes.

        Raises:
            BpError: `INPUT_UI_NAME`, `INPUT_UI_FILE_TYPE`.
        """
        name = safe_name(Path(name.replace("\\", "/")).name.replace(" ", "-"))
        suffix = Path(name).suffix.lower()
        if suffix not in DATA:
            raise BpError(
                "INPUT_UI_FILE_TYPE",
                f"{name} is of no type that a dataset can have",
                f"name a file of {', '.join(DATA)}",
            )
        part = self.places.writable("uploads", f"part-{secrets.token_hex(8)}.upload")
        size, head = 0, b""
        try:
            with part.open("xb") as out:
                os.chmod(part, 0o600)  # noqa: PTH101 - before a byte is there
                async for chunk in chunks:
                    if len(head) < 4096:
                        head += chunk[: 4096 - len(head)]
                        _check_content(name, suffix, head)
                    out.write(chunk)
                    size += len(chunk)
                out.flush()
                os.fsync(out.fileno())
            if not size:
                raise BpError("INPUT_UI_FILE_TYPE", f"{name} is empty", "upload a file with rows")
            final = _free(self.places.writable("uploads", name))
            part.rename(final)
        finally:
            part.unlink(missing_ok=True)
        return {"path": str(final), "name": final.name, "bytes": size, "uploaded_at": time.time()}

    def delete(self, name: str) -> None:
        """Delete an upload.

        Raises:
            BpError: `INPUT_UI_NAME` where there is none.
        """
        file = self.places.writable("uploads", name)
        if not file.is_file():
            raise BpError("INPUT_UI_NAME", f"there is no upload {name!r}", "choose one of the list")
        file.unlink()

    def preview(
        self, path: str, samples: int = 5, mapping: str | None = None, force: bool = False
    ) -> dict[str, Any]:
        """The format that a dataset has, a mapping where one is needed, and its first rows read and refused.

        Raises:
            BpError: those of `bp_data.read`; `INPUT_UI_PATH_FORBIDDEN`, `INPUT_UI_FILE_TYPE`.
        """
        import bp_data
        from bp_data.sources import expand

        source = self.places.dataset(path)
        detection = bp_data.detect(source)
        rows: list[dict[str, Any]] = []
        for batch in expand(source)[0].batches(bp_data.Limits()):
            rows += [item[1] for item in batch if not isinstance(item, bp_data.Rejected)]
            if len(rows) >= ROWS:
                break
        proposal = None if mapping else bp_data.propose(rows[:ROWS])
        told: dict[str, Any] = {
            "path": source,
            "name": self.places.shown(source),
            "format": detection.format,
            "confidence": round(detection.confidence, 3),
            "clear": detection.clear,
            "says": detection.tell(),
            "candidates": [
                {"format": c.format, "confidence": round(c.confidence, 3), "why": c.rationale}
                for c in detection.candidates[:5]
            ],
            "columns": sorted({key for row in rows for key in row})[:200],
            "proposal": proposal
            and {**dataclasses.asdict(proposal), "flag": proposal.as_flag(), "says": proposal.tell()},
            "raw": [_short(row) for row in rows[: max(1, min(samples, ROWS))]],
            "examples": [],
            "rejected": [],
            "refusal": "",
        }
        try:
            reader = bp_data.read(
                source, mapping=mapping or None, force=force, max_samples=max(1, min(samples, ROWS))
            )
            for item in reader:
                if isinstance(item, bp_data.Rejected):
                    told["rejected"].append({"line": item.line, "reason": item.reason, "hint": item.hint})
                else:
                    told["examples"].append(_example(item))
        except Exception as error:
            from bp_merge.common import is_coded

            if not is_coded(error):
                raise
            told["refusal"] = str(error)  # the page shows what the mapping would need
        return told

    def start(self, action: str, path: str, values: Mapping[str, Any]) -> str:
        """Start a report, validation, clean, split or map of a dataset as a job; returns its id.

        Args:
            action: `report`, `validate`, `clean`, `split` or `map`.
            path: the dataset.
            values: flags by field name; outputs are chosen here, beside the uploads.

        Raises:
            BpError: `INPUT_UI_REQUEST` for another action, and those of `flags_of`.
        """
        from bp_data.clean import CleanSettings
        from bp_data.report.settings import ReportSettings
        from bp_data.split_settings import SplitSettings
        from bp_data.validation import ValidateSettings

        from bp_ui.service.forms import flags_of

        classes = {
            "report": ReportSettings,
            "validate": ValidateSettings,
            "clean": CleanSettings,
            "split": SplitSettings,
            "map": None,
        }
        if action not in classes:
            raise BpError(
                "INPUT_UI_REQUEST",
                f"{action!r} is none of {', '.join(classes)}",
                "backprop data report --help",
            )
        source = self.places.dataset(path)
        reading = [f"--map={values['map']}"] if values.get("map") else []
        reading += ["--force"] if values.get("force") in (True, "on") else []
        own = {k: v for k, v in values.items() if k not in ("map", "force")}
        cls = classes[action]
        flags = flags_of(cls, own, self.places) if cls is not None else []
        stem = safe_name(
            (
                Path(source).name.split(".")[0]
                if not source.startswith("hf:")
                else source[3:].replace("/", "-").replace(":", "-")
            )[:80]
            or "data"
        )
        made: list[str] = []
        if action == "clean":
            file = _free(self.places.writable("uploads", f"{stem}.clean.jsonl"))
            made = [f"--output={file}", f"--dropped={_free(file.with_name(f'{stem}.dropped.jsonl'))}"]
        elif action == "split":
            made = [
                f"--out-{side}={_free(self.places.writable('uploads', f'{stem}.{side}.jsonl'))}"
                for side in ("train", "heldout")
            ]
        elif action == "map":
            made = [
                f"--output={_free(self.places.writable('uploads', f'{stem}.mapped.jsonl'))}",
                "--auto",
                "--drop=all",
            ]
        return self.jobs.command(
            f"data-{action}",
            ["data", action, source, *reading, *flags, *made],
            {"name": self.places.shown(source)},
        )


def _data_files(root: Path) -> list[Path]:
    found: list[Path] = []
    for depth in ("*", "*/*"):
        for file in root.glob(depth):
            hidden = any(p.startswith(".") for p in file.relative_to(root).parts)
            skipped = any(p in ("node_modules", "site-packages", "__pycache__") for p in file.parts)
            if hidden or skipped or file.suffix.lower() not in DATA or file.suffix.lower() in (".md", ".txt"):
                continue
            if file.is_file() and file.name not in (
                "package.json",
                "manifest.json",
                "result.json",
                "config.json",
            ):
                found.append(file)
            if len(found) >= 500:
                return found
    return found


def _check_content(name: str, suffix: str, head: bytes) -> None:
    """Refuse content that is not what the name says."""
    magic = MAGIC.get(suffix)
    if magic is not None:
        if len(head) >= len(magic) and not head.startswith(magic):
            raise BpError(
                "INPUT_UI_FILE_TYPE",
                f"{name} does not begin like a {suffix} file",
                "upload the file as it is",
            )
    elif b"\0" in head and not head.startswith((b"\xff\xfe", b"\xfe\xff")) and suffix != ".arrow":
        raise BpError(
            "INPUT_UI_FILE_TYPE", f"{name} holds bytes that no text has", "upload a text or Parquet file"
        )


def _free(path: Path) -> Path:
    """The path, or one with a number that is not taken."""
    stem, _, rest = path.name.partition(".")
    number = 1
    while path.exists():
        number += 1
        path = path.with_name(f"{stem}-{number}.{rest}")
    return path


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= CELL else text[:CELL] + "…"


def _example(example: Any) -> dict[str, Any]:
    """An example as a page shows it: turns of role and text."""
    turns = [{"role": t.role, "text": str(t.content)[:CELL]} for t in example.turns or ()]
    for name in ("chosen", "rejected"):
        for t in getattr(example, name, None) or ():
            turns.append({"role": f"{name} {t.role}", "text": str(t.content)[:CELL]})
    if example.text:
        turns.append({"role": "text", "text": example.text[:CELL]})
    return {"kind": example.kind, "turns": turns}
