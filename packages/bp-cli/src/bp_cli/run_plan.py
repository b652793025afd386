"""The plan of one run, as a dry run shows it to people."""

from __future__ import annotations

from typing import Any

from bp_cli.text import size, table


def plan_text(plan: dict[str, Any]) -> str:
    """The plan of one run for people."""
    data = plan["data"]
    seconds = plan["cpu_seconds"]
    rows = [
        (
            "model",
            f"{plan['base_model']}, {plan['parameters']:,} parameters, {size(plan['base_weights_bytes'])} of weights",
        ),
        ("device", plan["device"] + (f", about {seconds:,.0f} s" if seconds is not None else "")),
        ("rows", f"{data['accepted']} of {data['rows']} can be used"),
        *((f"  {reason}", str(count)) for reason, count in data["rejections"].items()),
        (
            "training",
            f"{data['train']['pieces']} pieces, {data['train']['tokens']:,} tokens, {data['train']['labels']:,} labels",
        ),
        ("held out", f"{data['heldout']['pieces']} pieces"),
        (
            "steps",
            f"{plan['steps']} of {plan['examples_per_step']} examples: {plan['epochs']:g} epochs, {plan['tokens']:,} tokens",
        ),
    ]
    decided = [
        (n, str(s["value"]), s["source"]) for n, s in plan["settings"].items() if s["source"] != "default"
    ]
    return table(rows) + "\n\n" + table(decided, ("setting", "value", "source"))
