"""Wherever a command asks for an adapter, a run's name does too: its id or the beginning, its folder, `latest`, nothing.

- The commands of bp-export and bp-merge take folders and know no runs. What is mounted here is a copy of theirs whose
  arguments resolve names first, so that both packages stay as they are alone.
- Nothing given is the newest completed run, where one adapter is asked for; a list of adapters to combine is named.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import click
from bp_merge.common import BpError

# command path → arguments that name an adapter (True: none given means the latest run's)
ARGUMENTS: dict[str, dict[str, bool]] = {
    "export": {"adapters": True},
    "push": {"path": True},
    "ollama register": {"path": True},
    "merge merge": {"adapters": False},
    "merge bake": {"adapters": True},
    "merge slao": {"adapter": True},
    "merge inspect": {"path": True},
    "merge compare": {"a": False, "b": False},
}
TOLD = (
    "An adapter is a folder, a run id or its beginning, or `latest`; of a run that failed or is under way its newest "
    "complete checkpoint is taken"
)


class AdapterName(click.ParamType):
    """A folder or file, or the name of a run, as the path of what is meant."""

    name = "adapter"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The adapter directory; a path that is not there stays as it is, for the command to refuse."""
        inside = ("adapter", "model")
        if (
            isinstance(value, str)
            and Path(value).exists()
            and not any((Path(value) / n).exists() for n in inside)
        ):
            return Path(value)  # no run is meant: nothing has to be looked up
        from bp_core.runs.adapters import find_adapter
        from bp_core.settings.resolve import resolve

        output = resolve().tracking.output
        try:
            return find_adapter(value, output)
        except BpError as error:
            if error.code != "STATE_RUN_NO_ADAPTER":
                raise
            from bp_core.runs.store import RunStore
            from bp_core.training.snapshot import adapter_of_checkpoint

            return adapter_of_checkpoint(RunStore(output).get(value), lambda line: click.echo(line, err=True))


def with_names(command: click.Command, path: str) -> click.Command:
    """A copy of a command whose adapter arguments take the names of runs."""
    names = ARGUMENTS.get(path)
    if names is None:
        return command
    mounted = copy.copy(command)
    mounted.params = [_named(p, names[p.name]) if p.name in names else p for p in command.params]
    nothing = "; none given is the latest completed run's" if any(names.values()) else ""
    mounted.help = f"{command.help}\n\n{TOLD}{nothing}."
    return mounted


def _named(param: click.Parameter, latest: bool) -> click.Parameter:
    named = copy.copy(param)
    named.type = AdapterName()
    if latest:
        named.required = False
        named.default = ["latest"] if param.nargs == -1 else "latest"
        if isinstance(named, click.Argument) and named.metavar:
            named.metavar = f"[{named.metavar}]"
    return named
