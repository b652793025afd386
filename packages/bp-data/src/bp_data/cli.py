"""The `bp-data` command: report, validate, split, clean, decontaminate, map, convert.

- stdout carries the result (`--json`: one object with `schema_version`), stderr everything else.
- Exit codes: 0, 1 for a wrong argument or an unreadable input, 65 for a gate that tripped or bad data.
- Heavy imports happen inside the commands, so that `--help` answers at once.
"""

from __future__ import annotations

import copy
import re
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import click

from bp_data.clean import CleanSettings
from bp_data.common import Exit, Sink, options, output_options, run_command
from bp_data.errors import BpError
from bp_data.excerpt import shown
from bp_data.render import SHAPES
from bp_data.report.settings import ReportSettings
from bp_data.sources.base import Limits
from bp_data.split_settings import SplitSettings
from bp_data.validation import ValidateSettings
from bp_data.whole_files import STDOUT, check_outputs, whole_files

EPILOG = {
    "clean": "Example: bp-data clean train.jsonl --dedupe near --keep longest --redact",
    "decontaminate": "Example: bp-data decontaminate train.jsonl --against test.jsonl",
    "convert": "Example: bp-data convert train.jsonl --shape sharegpt --output sharegpt.jsonl",
    "report": "Example: bp-data report train.jsonl --against test.jsonl --fail-on-dups 0.1 --fail-on-contamination 0",
    "split": "Example: bp-data split train.jsonl --heldout-ratio 0.1 --seed 0",
    "validate": "Example: bp-data validate train.jsonl --format sharegpt --max-errors 20",
    "map": "Example: bp-data map raw.csv --map question=prompt,answer=completion --output train.jsonl --drop empty_target",
}


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="bp-data")
def cli() -> None:
    """Know what you train on: check, map, split and clean a dataset."""


def input_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add what every command takes that reads: the format, a map, `--drop-keys`, `--force`, and the fields of `Limits`."""
    decorators = (
        click.option(
            "--format", "format_name", default="auto", show_default=True, help="Format of the rows."
        ),
        click.option(
            "--map",
            "--map-json",
            "mapping",
            metavar="MAP",
            help="field=target,… or JSON: which field plays which part.",
        ),
        click.option(
            "--drop-keys",
            default="",
            metavar="KEY,…",
            help="Columns, or keys of messages and tools, that need not be trained on.",
        ),
        click.option(
            "--force", is_flag=True, help="Read with the best guess even below a confidence of 0.80."
        ),
        options(limits=Limits),
    )
    for decorate in reversed(decorators):
        function = decorate(function)
    return function


def ticker(sink: Sink, what: str) -> Callable[[int], None]:
    """A progress callback that writes at most five lines a second."""
    last = 0.0

    def tell(rows: int) -> None:
        nonlocal last
        if (now := time.monotonic()) - last > 0.2:
            last = now
            sink.progress(f"{what}: {rows:,} rows")

    return tell


def tell_result(
    sink: Sink, outputs: Iterable[Path | None], data: dict[str, Any], human: Callable[[], str], quiet: str
) -> None:
    """Print the result; where an output already took stdout, for people on stderr."""
    if STDOUT in outputs:
        sink.note(human())
    else:
        sink.result(data, human, quiet=quiet)


def check_stdout(sink: Sink, *outputs: Path | None) -> None:
    """Refuse two things on one stdout.

    Raises:
        BpError: `INPUT_VALIDATION_FAILED`.
    """
    if sink.mode == "json" and STDOUT in outputs:
        cause = "--json and the output - both write to standard output"
        raise BpError("INPUT_VALIDATION_FAILED", cause, "name a file for the output, or leave out --json")


def counted(rows: Iterable[Any], tell: Callable[[int], None]) -> Iterator[Any]:
    """The same rows, told as they pass."""
    for number, row in enumerate(rows, 1):
        if number % 1000 == 0:
            tell(number)
        yield row


@cli.command(epilog=EPILOG["validate"])
@click.argument("dataset")
@input_options
@options(settings=ValidateSettings)
@click.option("--verbose", "-v", is_flag=True, help="Show a traceback with an error.")
@output_options
def validate(
    sink: Sink,
    dataset: str,
    format_name: str,
    mapping: str | None,
    drop_keys: str,
    force: bool,
    verbose: bool,
    limits: Limits,
    settings: ValidateSettings,
) -> int:
    """Look at every row of DATASET and list what is wrong, with line, field and how it should be."""
    from bp_data.validation import validate as run

    result = run(
        dataset, settings, format=format_name, mapping=mapping, drop_keys=drop_keys, force=force, limits=limits,
        note=sink.note, progress=ticker(sink, "validate"),
    )  # fmt: skip
    sink.result(result.to_dict(), result.tell, quiet="ok" if result.ok else f"{result.errors} errors")
    return Exit.OK if result.ok else Exit.GATE


@cli.command(epilog=EPILOG["report"])
@click.argument("dataset")
@input_options
@options(settings=ReportSettings)
@click.option(
    "--html", type=click.Path(path_type=Path), help="Write one self-contained page too (-: to stdout)."
)
@click.option("--overwrite", is_flag=True, help="Replace an existing page.")
@click.option("--verbose", "-v", is_flag=True, help="Show a traceback with an error.")
@output_options
def report(
    sink: Sink,
    dataset: str,
    format_name: str,
    mapping: str | None,
    drop_keys: str,
    force: bool,
    html: Path | None,
    overwrite: bool,
    verbose: bool,
    limits: Limits,
    settings: ReportSettings,
) -> int:
    """Say what DATASET is made of: duplicates, lengths, languages, secrets, contamination, and a verdict."""
    from bp_data.conversion import input_files
    from bp_data.reader import read
    from bp_data.report.report import report as run

    reader = read(
        dataset, format=format_name, mapping=mapping, drop_keys=drop_keys, force=force, limits=limits, note=sink.note
    )  # fmt: skip
    check_stdout(sink, html)
    inputs = input_files(reader, *settings.against)
    if html is not None:
        check_outputs(html, overwrite=overwrite, inputs=inputs)
    result = run(reader, settings, progress=ticker(sink, "report"))
    if html is not None:
        with whole_files(html, overwrite=overwrite, inputs=inputs) as (page,):
            page.write(result.to_html().encode("utf-8", "replace"))
        sink.note(f"wrote {shown(html)}")
    tell_result(sink, [html], result.to_dict(), result.to_text, result.verdict)
    if result.failed:
        sink.note(f"[INPUT_DATASET_REPORT_THRESHOLD] {'; '.join(result.failed_thresholds)}")
    return Exit.GATE if result.failed else Exit.OK


@cli.command(epilog=EPILOG["clean"])
@click.argument("dataset")
@input_options
@options(settings=CleanSettings)
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    help="Kept rows  [default: <stem>.clean.jsonl]",
)
@click.option(
    "--dropped",
    type=click.Path(path_type=Path),
    help="Dropped rows with reasons  [default: beside the output]",
)
@click.option("--overwrite", is_flag=True, help="Replace existing outputs.")
@click.option("--dry-run", is_flag=True, help="Print the figures, write nothing.")
@click.option("--verbose", "-v", is_flag=True, help="Show a traceback with an error.")
@output_options
def clean(
    sink: Sink,
    dataset: str,
    format_name: str,
    mapping: str | None,
    drop_keys: str,
    force: bool,
    output: Path | None,
    dropped: Path | None,
    overwrite: bool,
    dry_run: bool,
    verbose: bool,
    limits: Limits,
    settings: CleanSettings,
) -> int:
    """Drop duplicates and rows that DATASET is better without, and redact; each dropped row keeps its reason."""
    from bp_data.reader import read

    reader = read(
        dataset, format=format_name, mapping=mapping, drop_keys=drop_keys, force=force, limits=limits, note=sink.note
    )  # fmt: skip
    return _clean(sink, reader, settings, output or beside(dataset, "clean"), dropped, overwrite, dry_run)


@cli.command(epilog=EPILOG["decontaminate"])
@click.argument("dataset")
@click.option(
    "--against",
    multiple=True,
    required=True,
    metavar="FILE",
    help="Held-out file, folder or hf: id whose text no row may hold (repeat it).",
)
@input_options
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    help="Kept rows  [default: <stem>.decontaminated.jsonl]",
)
@click.option(
    "--dropped",
    type=click.Path(path_type=Path),
    help="Dropped rows with reasons  [default: beside the output]",
)
@click.option("--overwrite", is_flag=True, help="Replace existing outputs.")
@click.option("--dry-run", is_flag=True, help="Print the figures, write nothing.")
@click.option("--verbose", "-v", is_flag=True, help="Show a traceback with an error.")
@output_options
def decontaminate(
    sink: Sink,
    dataset: str,
    against: tuple[str, ...],
    format_name: str,
    mapping: str | None,
    drop_keys: str,
    force: bool,
    output: Path | None,
    dropped: Path | None,
    overwrite: bool,
    dry_run: bool,
    verbose: bool,
    limits: Limits,
) -> int:
    """Drop the rows of DATASET that overlap a held-out set, and nothing else; `clean --against` does more at once."""
    from bp_data.reader import read

    reader = read(
        dataset, format=format_name, mapping=mapping, drop_keys=drop_keys, force=force, limits=limits, note=sink.note
    )  # fmt: skip
    settings = CleanSettings(dedupe="none", against=against)
    path = output or beside(dataset, "decontaminated")
    return _clean(sink, reader, settings, path, dropped, overwrite, dry_run)


def _clean(
    sink: Sink,
    reader: Any,
    settings: CleanSettings,
    path: Path,
    dropped: Path | None,
    overwrite: bool,
    dry_run: bool,
) -> int:
    from bp_data.clean import clean as run
    from bp_data.clean import outputs
    from bp_data.conversion import input_files

    targets = outputs(path, dropped)
    check_stdout(sink, *targets)
    if not dry_run:
        check_outputs(*targets, overwrite=overwrite, inputs=input_files(reader, *settings.against))
    result = run(reader, settings, progress=ticker(sink, "clean"))
    figures = result.to_dict()
    written: dict[str, str] = {}
    if not dry_run and result.kept:
        names = map(str, result.write(path, dropped, overwrite=overwrite))
        written = dict(zip(("output", "dropped_file"), names, strict=False))

    def human() -> str:
        lines = [
            f"{figures['rows_total']} rows: {figures['rows_kept']} kept, {figures['rows_dropped']} dropped"
        ]
        lines += [f"  {reason}: {count}" for reason, count in figures["dropped"].items()]
        lines += [f"{figures['rows_redacted']} rows redacted"] if settings.redact else []
        return "\n".join(lines + [f"wrote {shown(name)}" for name in written.values()])

    tell_result(sink, targets, {**figures, **written}, human, "\n".join(written.values()))
    return Exit.OK if result.kept else Exit.GATE


def beside(dataset: str, part: str) -> Path:
    """`<stem>.<part>.jsonl` in the folder of a dataset, or here for pipes, patterns and remote sources."""
    path = Path(dataset)
    if path.is_file() or path.is_dir():
        path = path if path.name else path.resolve()
        return path.parent / f"{path.name.split('.')[0] or path.name}.{part}.jsonl"
    piped = dataset == "-" or path.exists()
    stem = "stdin" if piped else re.sub(r"[^\w.-]", "", path.name.split(":")[0])
    return Path(f"{'dataset' if '*' in dataset or '?' in dataset else stem or 'dataset'}.{part}.jsonl")


@cli.command("map", epilog=EPILOG["map"])
@click.argument("dataset")
@click.option("--auto", is_flag=True, help="Use the detected format or the proposed mapping.")
@click.option("--mapper", help="Id of a mapper plug-in.")
@click.option("--mapper-module", multiple=True, help="Module that registers mappers (repeat it).")
@input_options
@click.option("--output", "-o", type=click.Path(path_type=Path), help="JSONL file to write.")
@click.option(
    "--shape",
    type=click.Choice(SHAPES),
    default="row",
    show_default=True,
    help="Shape of the rows written.",
)
@click.option(
    "--drop",
    multiple=True,
    metavar="REASON",
    help='Agree to leave out rows refused for this reason (repeat it; "all").',
)
@click.option("--overwrite", is_flag=True, help="Replace an existing output.")
@click.option("--dry-run", is_flag=True, help="Show, write nothing (the default without --output).")
@click.option(
    "--samples", type=click.IntRange(0), default=3, show_default=True, help="Accepted rows to show."
)
@click.option("--max-samples", type=click.IntRange(1), help="Read no more than this many rows.")
@click.option("--verbose", "-v", is_flag=True, help="Show a traceback with an error.")
@output_options
def map_command(
    sink: Sink,
    dataset: str,
    auto: bool,
    mapper: str | None,
    mapper_module: tuple[str, ...],
    format_name: str,
    mapping: str | None,
    drop_keys: str,
    force: bool,
    output: Path | None,
    shape: str,
    drop: tuple[str, ...],
    overwrite: bool,
    dry_run: bool,
    samples: int,
    max_samples: int | None,
    verbose: bool,
    limits: Limits,
) -> int:
    """Rewrite DATASET in one canonical format, after showing what fits and what does not."""
    from bp_data.conversion import convert
    from bp_data.mapping import load_mappers
    from bp_data.reader import read

    ways = [name for name, value in (("--auto", auto), ("--mapper", mapper), ("--map", mapping)) if value]
    if len(ways) > 1:
        raise BpError(
            "INPUT_VALIDATION_FAILED",
            f"{' and '.join(ways)} exclude each other",
            f"give {ways[0]} alone",
        )
    if mapper:
        for line in load_mappers(mapper_module)[1]:
            sink.note(line)
    reader = read(
        dataset, format=format_name, mapping=mapping, drop_keys=drop_keys, force=force, mapper=mapper, mapper_modules=mapper_module,
        limits=limits, max_samples=max_samples, note=sink.note if mapper or mapping else None,
    )  # fmt: skip
    check_stdout(sink, output)
    result = convert(
        reader, None if dry_run else output, shape=shape, drop=drop, overwrite=overwrite, samples=samples,
        progress=ticker(sink, "map"),
    )  # fmt: skip
    import dataclasses

    tell_result(sink, [output], dataclasses.asdict(result), result.tell, result.output)
    if output and not dry_run and not result.output:
        if result.undecided:
            flags = " ".join(f"--drop {reason}" for reason in result.undecided)
            cause = f"{result.rows_rejected} of {result.rows_total} rows do not fit; nothing was written"
            sink.note(f"{cause}\n\nhint: repeat with {flags}")
        return Exit.GATE
    return Exit.OK if result.rows_accepted else Exit.GATE


# the same command under the name that people look for
convert_command = copy.copy(map_command)
convert_command.help = (
    "Rewrite DATASET in another shape, as `map` does; a row that the shape cannot say is refused."
)
convert_command.epilog = EPILOG["convert"]
cli.add_command(convert_command, "convert")


@cli.command(epilog=EPILOG["split"])
@click.argument("dataset")
@input_options
@options(settings=SplitSettings)
@click.option(
    "--out-train",
    type=click.Path(path_type=Path),
    help="Training rows  [default: <stem>.train.jsonl]",
)
@click.option(
    "--out-heldout",
    type=click.Path(path_type=Path),
    help="Held-out rows  [default: <stem>.heldout.jsonl]",
)
@click.option("--overwrite", is_flag=True, help="Replace existing outputs.")
@click.option("--dry-run", is_flag=True, help="Print the figures, write nothing.")
@click.option("--verbose", "-v", is_flag=True, help="Show a traceback with an error.")
@output_options
def split(
    sink: Sink,
    dataset: str,
    format_name: str,
    mapping: str | None,
    drop_keys: str,
    force: bool,
    out_train: Path | None,
    out_heldout: Path | None,
    overwrite: bool,
    dry_run: bool,
    verbose: bool,
    limits: Limits,
    settings: SplitSettings,
) -> int:
    """Divide DATASET into a training and a held-out file that share no row and no near-duplicate."""
    from bp_data.conversion import input_files, write_sides
    from bp_data.reader import read
    from bp_data.split import split as run

    reader = read(
        dataset, format=format_name, mapping=mapping, drop_keys=drop_keys, force=force, limits=limits, note=sink.note
    )  # fmt: skip
    train, heldout = out_train or beside(dataset, "train"), out_heldout or beside(dataset, "heldout")
    check_stdout(sink, train, heldout)
    if not dry_run:
        check_outputs(train, heldout, overwrite=overwrite, inputs=input_files(reader))
    result = run(counted(reader, ticker(sink, "split")), settings=settings)
    if not dry_run:
        write_sides(reader, (train, result.train), (heldout, result.heldout), overwrite=overwrite)
    figures = result.to_dict()
    written = {} if dry_run else {"out_train": str(train), "out_heldout": str(heldout)}

    def human() -> str:
        lines = [
            f"{figures['n_train']} rows to train on, {figures['n_heldout']} held out, {figures['rows_rejected']} rejected",
            f"{figures['groups']} groups, the largest of {figures['largest_group']}; across the sides: "
            f"{figures['exact_across']} equal rows, {figures['near_across']} similar pairs",
        ]
        return "\n".join(lines + [f"wrote {shown(path)}" for path in written.values()])

    tell_result(sink, (train, heldout), {**figures, **written}, human, "\n".join(written.values()))
    return Exit.OK


def main() -> None:
    """The entry point of the `bp-data` command."""
    raise SystemExit(run_command(cli, prog_name="bp-data"))
