"""`backprop ui`: serve the pages; light until it runs."""

from __future__ import annotations

import sys
from typing import Any

import click
from bp_merge.common import BpError, options

from bp_ui.settings import UiSettings

EPILOG = """\b
Examples:
  backprop ui
  backprop ui --output ./ui-outputs --folder ./data
  backprop ui --host 0.0.0.0 --auth-file ui-password.txt --allowed-host gpu-box
"""


@click.command(epilog=EPILOG)
@options(UiSettings)
def ui(**given: Any) -> None:
    """The web UI: data, training, runs, export, in a browser, on this machine alone unless asked.

    Settings come from [ui] of backprop.toml, .env, BACKPROPAGATE_UI__… variables and these flags. Ctrl-C ends the UI; a
    run goes on, and the next UI finds it.
    """
    from bp_ui.server.credential import read_credential
    from bp_ui.server.policy import is_loopback
    from bp_ui.settings import resolve

    def tell(line: str) -> None:
        click.echo(line, err=True)

    settings = resolve(given)
    if settings.prefix:
        import dataclasses

        settings = dataclasses.replace(settings, prefix="/" + settings.prefix.strip("/"))
    credential = read_credential(settings.auth, settings.auth_file, tell)
    if credential is None and (settings.share or not is_loopback(settings.host)):
        asked = "--share" if settings.share else f"--host {settings.host}"
        raise BpError(
            "RUNTIME_UI_AUTH_NOT_ENFORCED",
            f"{asked} would show the UI to others without a password",
            f"backprop ui {asked} --auth-file ui-password.txt",
        )
    if credential is not None:
        credential.seconds = settings.session_hours * 3600
    from bp_ui.server.serve import run

    try:
        run(settings, credential, tell)
    except KeyboardInterrupt:
        sys.exit(0)
