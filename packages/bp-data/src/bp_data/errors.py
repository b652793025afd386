"""The codes of bp-data: errors that stop a command, and the reasons for which one row is refused or flagged.

- An error (`CODES`) stops the call; a reason (`REASONS`) concerns one row, and reading goes on.
- Codes are stable names: scripts, bulk drops and mappings refer to them. The reference pages are made from here.
- A reason has a severity: `error` (the row teaches nothing or the wrong thing), `warn` (look at it), `info`.
- `RowError` is how a format tells why one row cannot become an `Example`; it never leaves `read`.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from bp_data.common import BpError, Code, Exit

__all__ = ["CODES", "REASONS", "REFUSALS", "BpError", "Exit", "Reason", "RowError"]

CODES: dict[str, Code] = {
    "INPUT_DATASET_NOT_FOUND": Code(
        "no file, directory, glob match or known scheme stands behind the name given",
        "give the path of a file, a folder, a pattern, or hf:OWNER/NAME",
    ),
    "INPUT_DATASET_EMPTY": Code("the dataset holds no row at all", "look into the file: head -c 300 FILE"),
    "INPUT_DATASET_UNREADABLE": Code(
        "the file exists but cannot be opened or decoded as what it claims to be",
        "save the file again; the message says at what it stopped",
    ),
    "INPUT_DATASET_TOO_SMALL": Code(
        "a split needs at least two rows that are not duplicates of each other",
        "see how many rows are left: bp-data report FILE",
    ),
    "INPUT_SPLIT_IMPOSSIBLE": Code(
        "rows that must stay together fill more than one side of the split holds",
        "split by another field, or evaluate on rows of your own: backprop train --heldout FILE",
    ),
    "INPUT_DATASET_REPORT_THRESHOLD": Code(
        "a gate of the report tripped", "mend the rows that the report names, or raise the gate"
    ),
    "INPUT_PATTERN_INVALID": Code(
        "a regular expression does not compile",
        "correct the regular expression, or escape what is meant literally",
    ),
    "INPUT_CSV_HEADER_INVALID": Code(
        "the header of a CSV file is missing, or names a column twice",
        "give each column one name in line 1 of the file",
    ),
    "INPUT_FORMAT_UNKNOWN": Code(
        "the format named is not one that bp-data knows",
        "take a format that the message names, or leave --format out",
    ),
    "INPUT_FORMAT_UNCLEAR": Code(
        "the format was recognised with a confidence below 0.80; a mapping, a format or force is needed",
        "say what the fields are: bp-data map FILE --map question=prompt,answer=completion",
    ),
    "INPUT_MAPPING_INVALID": Code(
        "the mapping cannot be parsed, or names a target field that does not exist",
        "write it as field=target: bp-data map FILE --map question=prompt,answer=completion",
    ),
    "INPUT_MAPPER_UNKNOWN": Code(
        "no mapper has the id given",
        "leave the mapper out and let the fields be proposed: bp-data map FILE --auto",
    ),
    "INPUT_MAPPER_FAILED": Code(
        "the mapper named could not be loaded",
        "import the module that offers it in Python, which shows why it fails",
    ),
    "INPUT_SOURCE_FAILED": Code(
        "a third-party source raised an error", "see which package offers the source, and report it there"
    ),
    "INPUT_TOKENIZER_INVALID": Code(
        "the path given holds no readable tokenizer.json", "name a folder that holds a tokenizer.json"
    ),
    "INPUT_OUTPUT_EXISTS": Code(
        "the output exists and overwriting was not asked for, or it is an input, another output or no regular file",
        "choose another name, or repeat the command with --overwrite",
    ),
    "INPUT_OUTPUT_FOLDER": Code(
        "the folder of the output file is not there or cannot be written",
        "make the folder, or choose one that you may write",
    ),
    "INPUT_VALIDATION_FAILED": Code(
        "an argument has a value that is not allowed",
        "give a value that the message allows; --help of the command lists them",
    ),
    "RUNTIME_DISK_FULL": Code(
        "the disk has no room for what must be written", "free some space, or write to another disk"
    ),
    "RUNTIME_WRITE_FAILED": Code(
        "the system refused to write an output", "choose a folder that you may write, or mend its permissions"
    ),
    "DEP_DATASETS_MISSING": Code(
        "an hf: source or a datasets.Dataset was asked for and the package datasets is not installed",
        "pip install 'bp-data[hf]'",
    ),
    "DEP_ZSTANDARD_MISSING": Code(
        "the file is zstd-compressed and the package zstandard is not installed",
        "pip install 'bp-data[zstd]'",
    ),
    "HUB_DATASET_FAILED": Code(
        "the Hugging Face Hub did not give the dataset",
        "see whether the Hub gives it: hf download --repo-type dataset OWNER/NAME",
    ),
}

Severity = Literal["error", "warn", "info"]


class Reason(NamedTuple):
    """What a reason code means and how grave it is."""

    severity: Severity
    meaning: str


REASONS: dict[str, Reason] = {
    # the row cannot be parsed
    "invalid_json": Reason("error", "the line is not JSON"),
    "truncated_last_line": Reason("error", "the last line of the file stops in the middle of a JSON value"),
    "trailing_data": Reason("error", "more than one JSON value stands on the line"),
    "invalid_utf8": Reason("error", "the bytes are not UTF-8"),
    "lone_surrogate": Reason("error", "a \\ud800–\\udfff escape stands alone, which is no character"),
    "nul_byte": Reason(
        "error", "a raw NUL byte stands in the row (UTF-16 without a mark, or a damaged file)"
    ),
    "raw_control_character": Reason("error", "an unescaped control character stands inside a JSON string"),
    "not_finite": Reason("error", "NaN or Infinity, which JSON does not have"),
    "nesting_too_deep": Reason("error", "objects or lists are nested deeper than 200 levels"),
    "line_too_long": Reason("error", "the row is longer than the limit for one row"),
    "not_an_object": Reason("error", "the row is JSON but no object"),
    "ragged_row": Reason("error", "the CSV record has more or fewer cells than the header"),
    "unclosed_quote": Reason("error", "a quote opened in the CSV record is never closed"),
    "unreadable_row_group": Reason(
        "error", "the Parquet row group or Arrow batch that holds the row cannot be decoded"
    ),
    "source_failed": Reason("error", "the source raised an error in the middle"),
    # the row cannot become an Example
    "unrecognised_format": Reason("error", "the row's keys fit no known format"),
    "missing_field": Reason("error", "a field that the format needs is absent or null"),
    "empty_field": Reason("error", "a field that the format needs is empty or only white space"),
    "mistyped_field": Reason("error", "a field has another JSON type than the format needs"),
    "empty_messages": Reason("error", "the conversation has no turn"),
    "unknown_role": Reason("error", "a turn has a role that is not in the table of roles"),
    "no_assistant_turn": Reason("error", "the conversation has no turn of the assistant: nothing to learn"),
    "empty_target": Reason("error", "the text to be learnt is empty and holds no tool call"),
    "unsupported_content_part": Reason("error", "a content part is no text (image, audio, file)"),
    "tool_call_malformed": Reason("error", "a tool call has no function name or is no object"),
    "tool_args_invalid_json": Reason("error", "the arguments of a tool call are no JSON object"),
    "tools_malformed": Reason("error", "the tool declarations are no list of objects"),
    "label_not_bool": Reason("error", "the feedback label is neither true nor false"),
    "unlabelled": Reason("error", "the label is -1 or null: the row is not labelled"),
    "label_not_allowed": Reason("error", "the label is not among the allowed ones"),
    "length_mismatch": Reason("error", "two lists that belong together differ in length"),
    "bad_span": Reason("error", "a span lies outside the text, is empty, or has no label"),
    "no_common_prompt": Reason("error", "chosen and rejected share no leading turn and no prompt is given"),
    "mapper_rejected": Reason("error", "the mapper refused the row"),
    "mapper_failed": Reason("error", "the mapper raised an error on the row"),
    "template_failed": Reason("error", "a template names a field that the row does not have"),
    # the Example is there, and something is wrong with it
    "no_trainable_tokens": Reason(
        "error", "the prompt alone fills the length limit, or no turn is to be learnt"
    ),
    "too_long": Reason("error", "the row is longer than the length limit"),
    "ends_with_user": Reason("error", "the last turn is not the assistant's"),
    "roles_not_alternating": Reason("error", "two turns of the same role follow each other"),
    "starts_with_assistant": Reason("warn", "the first turn after the system prompt is the assistant's"),
    "multiple_system": Reason("warn", "there is a second system turn, or one that is not first"),
    "chosen_equals_rejected": Reason("error", "the two continuations of a preference pair are the same"),
    "preference_prefix": Reason("warn", "one continuation of the pair is a prefix of the other"),
    "prompt_repeated": Reason("warn", "the prompt is repeated at the start of the target"),
    "target_in_prompt": Reason("warn", "the target or the reference stands verbatim in the prompt"),
    "null_literal": Reason("warn", "a whole field is a placeholder such as N/A, None or undefined"),
    "special_token_in_content": Reason(
        "error", "a chat-template or tokenizer control token stands in the text"
    ),
    "rendered_text": Reason(
        "info", "a plain text holds control tokens: it was rendered with a template before"
    ),
    "tool_orphan_result": Reason("error", "a tool result answers no call before it"),
    "tool_unanswered": Reason("warn", "a tool call is never answered although the conversation goes on"),
    "tool_unknown": Reason("error", "a call names a tool that is not declared"),
    "tool_schema_violation": Reason("error", "the arguments of a call do not fit the declared schema"),
    "null_filled_struct": Reason("error", "most arguments of a call are null, as Arrow fills absent keys"),
    "think_unbalanced": Reason("error", "thinking tags do not pair, or are nested"),
    "think_mixed": Reason("info", "some answers of the file carry thinking and others do not"),
    "truncated_target": Reason("warn", "the answer stops in the middle (open code fence, open JSON)"),
    "mojibake": Reason("warn", "the text was decoded with the wrong character set"),
    "replacement_char": Reason("warn", "the text holds U+FFFD, where a character was lost"),
    "control_character": Reason("warn", "the text holds control characters"),
    "invisible_character": Reason("warn", "the text holds zero-width or direction-changing characters"),
    "html_escaped": Reason("warn", "the text holds HTML entities outside code"),
    "escaped_newlines": Reason("warn", "the text holds the two characters \\n and no real newline"),
    "refusal": Reason("info", "the answer is a refusal or speaks of itself as an AI model"),
    "repetition": Reason("warn", "the answer repeats itself"),
    "language_mismatch": Reason("info", "prompt and answer are written in different scripts"),
    "label_conflict": Reason("warn", "the same prompt has contradicting labels"),
    "single_class": Reason("error", "every label of the file is the same"),
    "unread_key": Reason(
        "warn", "the row holds content under a key that nothing reads: it is not trained on"
    ),
    "system_joined": Reason("info", "the row has two different system prompts, which were joined"),
    "null_dropped": Reason(
        "info",
        "null members of an object that becomes text were left out as absent; a JSON string keeps them",
    ),
    "duplicate_key": Reason("warn", "the row names a key twice; the last one counts"),
    "shape_cannot_say": Reason("error", "the shape asked for cannot hold what the row says"),
}

_NAMES = list(REASONS)
REFUSALS = frozenset(_NAMES[: _NAMES.index("no_trainable_tokens")])  # the row never became an Example


class RowError(Exception):
    """One row cannot become an Example.

    Args:
        reason: a code of `REASONS`.
        field: JSON path of the offending value.
        hint: what was expected.
    """

    def __init__(self, reason: str, field: str = "", hint: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.field = field
        self.hint = hint
