"""A command of many knobs: its help by groups; and the option to wait for the card."""

from __future__ import annotations

from collections.abc import Collection

import click
from bp_core.settings.knobs import GROUPS, Settings
from bp_merge.common import Sink, knobs

queue_option = click.option(
    "--queue", is_flag=True, help="Wait until the jobs that asked for the card before are done."
)
show_config_option = click.option(
    "--show-config", is_flag=True, help="Print every setting with where it comes from, and stop."
)


def show_settings(sink: Sink, settings: Settings, groups: Collection[str]) -> None:
    """Print every setting of the groups with its value and where that came from."""
    from bp_core.settings.resolve import explain

    from bp_cli.text import table

    rows = explain(settings, groups)
    sink.result(
        {"settings": {n: {"value": v, "source": s} for n, v, s in rows}},
        lambda: table(rows, ("setting", "value", "source")),
    )


class Grouped(click.Command):
    """A command whose help lists the knobs under the headings of their groups."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """One section a group, then what is left."""
        heading = {k.name: k.group for cls in GROUPS.values() for k in knobs(cls)}
        found: dict[str, list[tuple[str, str]]] = {h: [] for h in [*heading.values(), "Command"]}
        for param in self.get_params(ctx):
            if (record := param.get_help_record(ctx)) is not None:
                found[heading.get(param.name or "", "Command")].append(record)
        for name, records in found.items():
            if records:
                with formatter.section(f"{name} options"):
                    formatter.write_dl(records)
