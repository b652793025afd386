"""backprop reward: list, show, suggest, test and judge the coverage of rewards. None of it loads torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from bp_merge.common import BpError, Exit, Sink, output_options

from bp_cli.options import dry_run_option
from bp_cli.text import number, table


@click.group(
    epilog="\b\nExamples:\n  backprop reward list\n  backprop reward suggest train.jsonl --write mine.toml\n"
    "  backprop reward test mine.toml --data completions.jsonl\n"
)
def reward() -> None:
    """Rewards: what a completion is worth. List, compose and test them before any training."""


run_code_option = click.option(
    "--run-code", is_flag=True, help="Let rewards run the code of completions, with your user's rights."
)
completions_option = click.option(
    "--data",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="JSON lines: prompt, completion or completions, and the columns that the rewards read.",
)


@reward.command("list", epilog="\b\nExamples:\n  backprop reward list\n  backprop reward list --json\n")
@output_options
def list_rewards(sink: Sink) -> None:
    """List the rewards and the presets."""
    from bp_core.rewards.presets import PRESETS, PROMPTS
    from bp_core.rewards.reward import get_reward, reward_names

    rewards = [get_reward(n) for n in reward_names()]

    def human() -> str:
        rows = [
            (r.name, _range(r.range), ", ".join(r.reads) or "-", r.effects or "-", r.summary) for r in rewards
        ]
        sets = [(n, p.reads, p.rewards) for n, p in PRESETS.items()]
        return "\n\n".join(
            [
                table(
                    [(*r[:4], _short(r[4], 70)) for r in rows], ("reward", "range", "reads", "effects", "")
                ),
                table(sets, ("preset", "rows need", "")),
                "prompts: " + ", ".join(PROMPTS) + "  (backprop prompt-template list)",
            ]
        )

    data = {
        "rewards": [
            {"name": r.name, "summary": r.summary, "range": list(r.range), "reads": list(r.reads), "needs": list(r.needs), "effects": r.effects}
            for r in rewards
        ],
        "presets": [{"name": n, "title": p.title, "rewards": p.rewards, "use_for": p.use_for, "reads": p.reads} for n, p in PRESETS.items()],
        "prompts": list(PROMPTS),
    }  # fmt: skip
    sink.result(data, human, quiet="\n".join([*(r.name for r in rewards), *PRESETS]))


@reward.command(
    epilog="\b\nExamples:\n  backprop reward show numeric_match\n  backprop reward show math-science --toml > mine.toml\n"
)
@click.argument("name")
@click.option("--toml", "as_toml", is_flag=True, help="Print a file to start from.")
@output_options
def show(sink: Sink, name: str, as_toml: bool) -> None:
    """Show a reward with its parameters and truth table, or a preset or file with its rewards."""
    from bp_core.rewards.compose import load_set
    from bp_core.rewards.presets import ALIASES, PRESETS, to_toml
    from bp_core.rewards.reward import get_reward, reward_names

    name = ALIASES.get(name, name)
    single = name in reward_names()
    if as_toml:
        sets = PRESETS[name].table() if name in PRESETS else {"reward": [{"use": get_reward(name).name}]}
        text = to_toml(name, sets)
        sink.result({"name": name, "toml": text}, text, quiet=text)
        return
    if not single:
        made = load_set(name)
        sink.result(made.describe(), lambda: _set_text(made, PRESETS.get(name)), quiet=name)
        return
    told = get_reward(name).describe()

    def human() -> str:
        parameters = [
            (n, "required" if p["required"] else number(p["default"]), p["values"])
            for n, p in told["parameters"].items()
        ]
        cases = [
            (_short(repr(c["completion"])), _short(_given(c)), number(round(c["value"], 3)), c["why"])
            for c in told["cases"]
        ]
        facts = [
            ("range", _range(told["range"])),
            ("reads", ", ".join(told["reads"]) or "the completion alone"),
            *([("effects", told["effects"])] if told["effects"] else []),
        ]
        parts = [
            told["text"],
            table(facts),
            table(parameters, ("parameter", "default", "values")),
            table(cases, ("completion", "given", "value", "")),
        ]
        return "\n\n".join(p for p in parts if p)

    sink.result(told, human, quiet=name)


@reward.command(
    epilog="\b\nExamples:\n  backprop reward suggest train.jsonl\n  backprop reward suggest train.jsonl --write mine.toml\n"
)
@click.argument("dataset")
@click.option("--map", "mapping", metavar="MAP", help="field=target,… or JSON: which field plays which part.")
@click.option("--limit", type=click.IntRange(1), default=1000, show_default=True, help="Most rows looked at.")
@click.option(
    "--write", type=click.Path(path_type=Path, dir_okay=False), help="Write the best as a TOML file."
)
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
@dry_run_option
@output_options
def suggest(
    sink: Sink,
    dataset: str,
    mapping: str | None,
    limit: int,
    write: Path | None,
    overwrite: bool,
    dry_run: bool,
) -> None:
    """Propose rewards for DATASET, with the reasons."""
    from bp_core.rewards.presets import to_toml
    from bp_core.rewards.rows import references
    from bp_core.rewards.suggest import suggest as run
    from bp_data.whole_files import check_outputs, whole_files

    if write:
        check_outputs(write, overwrite=overwrite)
    rows = list(references(dataset, limit, mapping=mapping))
    if not rows:
        raise BpError(
            "INPUT_DATASET_EMPTY", f"no row of {dataset} can be read", f"backprop validate {dataset}"
        )
    found = run(rows)
    text = to_toml(write.stem, found[0].table) if write else ""
    if write and not dry_run:
        with whole_files(write, overwrite=overwrite) as (file,):
            file.write(text.encode())

    def human() -> str:
        parts = [f"{len(rows)} rows read"]
        for p in found:
            names = ", ".join(str(r["use"]) for r in p.table["reward"])
            notes = "".join(f"\n  note: {n}" for n in p.notes)
            parts.append(f"{p.name}: {p.reason}\n  rewards: {names}{notes}")
        if write and dry_run:
            parts.append(f"would be written to {write}:\n{text}")
        else:
            parts.append(f"written to {write}" if write else "to start from the first: --write mine.toml")
        return "\n\n".join(parts)

    data = {
        "rows": len(rows),
        "proposals": [p.to_dict() for p in found],
        "written": str(write) if write and not dry_run else None,
        "dry_run": dry_run,
    }
    sink.result(data, human, quiet=found[0].name)


@reward.command(
    epilog="\b\nExamples:\n  backprop reward test numeric_match\n  backprop reward test mine.toml --data completions.jsonl\n"
)
@click.argument("name")
@click.option(
    "--data",
    type=click.Path(path_type=Path, dir_okay=False),
    help="JSON lines: prompt, completion or completions, and the columns that the rewards read. Without it a reward's own truth table is run.",
)
@run_code_option
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="Most rows shown.")
@output_options
def test(sink: Sink, name: str, data: Path | None, run_code: bool, limit: int) -> int:
    """Score given completions with NAME: a reward, a preset, FILE.toml or path.py:function."""
    from bp_core.rewards.compose import load_set

    if data is None:
        return _self_test(sink, name, run_code)
    from bp_core.rewards.rows import completions

    made = load_set(name, run_code=run_code)
    samples = [s for group in completions(data) for s in group]
    scores = made.score(samples)
    names = [c.name for c in made.components]

    def human() -> str:
        rows = [
            (
                number(round(s.total, 4)),
                *(_value(s.components[n]) for n in names),
                _short(repr(x.completion), 60),
            )
            for x, s in zip(samples[:limit], scores, strict=False)
        ]
        more = f"\n(the first {limit} of {len(scores)}; --limit shows more)" if len(scores) > limit else ""
        mean = sum(s.total for s in scores) / len(scores)
        low_high = f", range {_range(made.range)}" if made.range else ""
        return (
            table(rows, ("total", *names, "completion"))
            + more
            + f"\n\nmean {number(round(mean, 4))} over {len(scores)} completions{low_high}"
        )

    told = {
        "set": made.describe(),
        "scores": [{"total": s.total, "components": dict(s.components)} for s in scores],
        "mean": sum(s.total for s in scores) / len(scores),
    }
    sink.result(told, human, quiet="\n".join(str(s.total) for s in scores))
    return Exit.OK


def _self_test(sink: Sink, name: str, run_code: bool) -> int:
    from bp_core.rewards.reward import get_reward

    made = get_reward(name)
    rows = []
    for c in made.cases:
        given = {**c.parameters, "run_code": run_code} if made.effects == "runs code" else c.parameters
        value = made(c.completion, reference=c.reference, prompt=c.prompt, row=c.row, **given)
        rows.append(
            {"completion": c.completion, "wanted": c.value, "value": value, "ok": abs(value - c.value) < 1e-6}
        )
    failed = sum(not r["ok"] for r in rows)
    shown = [
        ("ok" if r["ok"] else "WRONG", number(round(r["value"], 4)), _short(repr(r["completion"]), 70))
        for r in rows
    ]
    ends = (
        f"{len(rows) - failed} of {len(rows)} cases hold"
        if rows
        else "this reward has no truth table: give --data"
    )
    sink.result(
        {"reward": name, "cases": rows, "failed": failed},
        lambda: (table(shown) + "\n\n" + ends).strip(),
        quiet=str(failed),
    )
    return Exit.RUNTIME if failed else Exit.OK


@reward.command(
    epilog="\b\nExamples:\n  backprop reward coverage mine.toml --data samples.jsonl\n  backprop reward coverage math-science --data samples.jsonl --json\n"
)
@click.argument("name")
@completions_option
@run_code_option
@output_options
def coverage(sink: Sink, name: str, data: Path, run_code: bool) -> int:
    """Say whether NAME gives a signal to learn from, on several completions of each prompt. Exits 65 where it does not."""
    from bp_core.rewards.compose import load_set
    from bp_core.rewards.coverage import coverage as run
    from bp_core.rewards.rows import completions

    found = run(load_set(name, run_code=run_code), completions(data))

    def human() -> str:
        rows = [
            (n, number(round(s.mean, 4)), number(round(s.std, 4)), number(round(s.within, 4)), f"{s.zero_variance:.0%}", f"{s.floor:.0%}", f"{s.ceiling:.0%}")
            for n, s in (("total", found.total), *found.components.items())
        ]  # fmt: skip
        head = (
            "",
            "mean",
            "std",
            "std in a group",
            "groups without variance",
            "at the floor",
            "at the ceiling",
        )
        lines = [
            f"{found.completions} completions of {found.groups} prompts",
            "",
            table(rows, head),
            "",
            f"verdict: {found.verdict}",
        ]
        return "\n".join([*lines, *(f"- {a}" for a in found.advice)])

    sink.result(found.to_dict(), human, quiet=found.verdict)
    return Exit.OK if found.ok else Exit.GATE


def _set_text(made: Any, preset: Any) -> str:
    rows = [
        (c.name, number(c.weight), _range(c.range) if c.range else "?", c.effects or "-", ", ".join(f"{k}={v}" for k, v in c.parameters.items()))
        for c in made.components
    ]  # fmt: skip
    parts = [table(rows, ("reward", "weight", "range", "effects", "parameters"))]
    if preset:
        parts.insert(
            0, f"{preset.title}: {preset.rewards}\nuse for: {preset.use_for}\nrows need: {preset.reads}"
        )
    if made.range:
        parts.append(f"total: {_range(made.range)}")
    if made.prompt:
        parts.append(f"system prompt:\n{made.prompt.system}")
    return "\n\n".join(parts)


def _range(ends: Any) -> str:
    return f"{ends[0]:g} to {ends[1]:g}"


def _value(value: float | None) -> str:
    return "-" if value is None else number(round(value, 4))


def _given(case: dict[str, Any]) -> str:
    parts = [] if case["reference"] is None else [f"reference={case['reference']!r}"]
    parts += [f"{k}={v!r}" for part in ("row", "parameters") for k, v in case[part].items()]
    return ", ".join(parts)


def _short(text: str, most: int = 48) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
