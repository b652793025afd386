"""Merges of adapters as jobs."""

from __future__ import annotations

from collections.abc import Sequence

from bp_ui.errors import BpError
from bp_ui.service.places import safe_name
from bp_ui.service.services import Services


def start_merge(services: Services, adapters: Sequence[str], method: str, name: str) -> str:
    """Start a merge of adapters of one base; returns the id of its job.

    Args:
        services: of the server.
        adapters: runs' ids, or folders.
        method: of `bp_merge.method_names()`.
        name: of the folder under `merged` in the output.

    Raises:
        BpError: `INPUT_UI_REQUEST` for fewer than two adapters or an unknown method, `INPUT_UI_NAME` for a bad or taken
            name, and those of `find_adapter`.
    """
    from bp_core.runs.adapters import find_adapter
    from bp_merge import method_names

    if len(adapters) < 2:
        raise BpError("INPUT_UI_REQUEST", "a merge takes two adapters or more", "backprop merge merge --help")
    if method not in method_names():
        raise BpError("INPUT_UI_REQUEST", f"{method!r} is no merge method", "backprop merge methods")
    folders = [str(services.places.readable(str(find_adapter(a, services.places.output)))) for a in adapters]
    target = services.places.writable("merged", safe_name(name))
    if target.exists():
        raise BpError("INPUT_UI_NAME", f"there is a merge {name!r} already", "choose another name")
    arguments = ["merge", "merge", *folders, f"--method={method}", f"--output={target}"]
    return services.jobs.command("merge", arguments, {"name": name})
