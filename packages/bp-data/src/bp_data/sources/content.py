"""What the first bytes of a file say that it is: a text encoding, a known binary kind, or binary of no known kind.

- Binary content is refused with its name and a way on, whatever the file is called; text is never guessed from it.
- Control characters give unknown binary away: text in any encoding of one byte or more has none of them to speak of.
- Bytes after a run of NULs are not looked at: a file that a crash filled up with NULs keeps its good rows.
"""

from __future__ import annotations

_BINARY: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"PK\x03\x04", "a ZIP archive or an office document", "unzip -l {}; or save the sheet as CSV"),
    (0, b"PK\x05\x06", "an empty ZIP archive", "unzip -l {}"),
    (0, b"\xd0\xcf\x11\xe0", "an old office document (.xls, .doc)", "save the sheet as CSV"),
    (0, b"SQLite format 3\x00", "an SQLite database", "sqlite3 -csv -header {} 'select * from TABLE' > rows.csv"),
    (0, b"%PDF-", "a PDF document", "pdftotext {} text.txt"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", "7z x {}"),
    (0, b"Rar!\x1a", "a RAR archive", "unrar x {}"),
    (257, b"ustar", "a tar archive", "tar -xf {}"),
    (0, b"\x04\x22\x4d\x18", "compressed by lz4", "lz4 -d {}"),
    (0, b"Obj\x01", "an Avro file", "convert it to JSON lines or Parquet"),
    (0, b"ORC", "an ORC file", "convert it to Parquet"),
    (0, b"FEA1", "a Feather file of version 1", "write it again with pyarrow.feather.write_feather"),
    (0, b"\x89HDF", "an HDF5 file", "convert it to Parquet"),
    (0, b"\x93NUMPY", "a NumPy array", "convert it to JSON lines"),
    (0, b"GGUF", "a GGUF model", "name the dataset instead"),
    (0, b"\x7fELF", "a program", "name the dataset instead"),
    (0, b"\x89PNG", "a picture", "name the dataset instead"),
    (0, b"\xff\xd8\xff", "a picture", "name the dataset instead"),
    (0, b"GIF8", "a picture", "name the dataset instead"),
    (0, b"RIFF", "sound, video or a picture", "name the dataset instead"),
    (8, b'{"', "a safetensors file", "name the dataset instead"),
)  # fmt: skip
_MARKS = (
    (b"\xff\xfe\x00\x00", "utf-32-le"), (b"\x00\x00\xfe\xff", "utf-32-be"),
    (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"),
)  # fmt: skip
_LOOK = 4096
_CONTROL = bytes(b for b in range(32) if b not in b"\t\n\r\f\x1b") + b"\x7f"


def binary_kind(head: bytes) -> tuple[str, str]:
    """What a head of binary content is and a hint with `{}` for the path; two empty strings for text."""
    for at, mark, name, hint in _BINARY:
        if head[at : at + len(mark)] == mark:
            if at == 8 and head[6:8] != b"\0\0":  # the length of a safetensors header fits six bytes
                continue
            if mark == b"ORC" and head[3:4] >= b" ":
                continue
            return name, hint
    if head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05" and len(head) > 2:
        return "a pickle, which is never loaded: it could run any code", "write it as JSON lines or Parquet"
    text = head[:_LOOK].partition(b"\0" * 16)[0]
    if head and not text:
        return "full of NUL bytes, as a crash or a full disk leaves a file", "restore it from its source"
    controls = len(text) - len(text.translate(None, _CONTROL))
    if controls >= 8 and controls > 0.05 * len(text):
        return f"binary ({controls / len(text):.0%} control characters)", "file {}"
    return "", ""


def encoding_of(head: bytes) -> str:
    """The UTF-16 or UTF-32 encoding of a head, by its mark or by where its NUL bytes stand; "" for anything else."""
    for mark, encoding in _MARKS:
        if head.startswith(mark) and len(head) > 2:
            return encoding
    look = head[:_LOOK]
    if len(look) < 4 or head[:1] == b"\0" == head[1:2]:
        return ""
    even, odd = look[0::2], look[1::2]
    low, high = even.count(0) / len(even), odd.count(0) / len(odd)
    if high > 0.6 and low < 0.05:
        return "utf-16-le"
    return "utf-16-be" if low > 0.6 and high < 0.05 else ""
