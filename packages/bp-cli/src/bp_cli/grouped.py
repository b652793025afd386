"""A command of many knobs: its help by groups; and the option to wait for the card."""

from __future__ import annotations

import click
from bp_core.settings.knobs import GROUPS
from bp_merge.common import knobs

queue_option = click.option(
    "--queue", is_flag=True, help="Wait until the jobs that asked for the card before are done."
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
