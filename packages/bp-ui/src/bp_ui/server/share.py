"""A public address through cloudflared, where it is installed."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator

from bp_ui.errors import BpError
from bp_ui.server.policy import Policy
from bp_ui.settings import UiSettings

ADDRESS = re.compile(r"https://([a-z0-9-]+(?:\.[a-z0-9-]+)+)")


@contextlib.contextmanager
def tunnel(settings: UiSettings, policy: Policy, tell: Callable[[str], None]) -> Iterator[None]:
    """Open a tunnel to the port while the block runs; its host name is served from then on.

    Raises:
        BpError: `DEP_UI_CLOUDFLARED_MISSING`, `RUNTIME_UI_SHARE_FAILED`.
    """
    forward = f"ssh -L {settings.port}:127.0.0.1:{settings.port} this-machine"
    program = shutil.which("cloudflared")
    if program is None:
        raise BpError(
            "DEP_UI_CLOUDFLARED_MISSING", "--share needs cloudflared, which is not on the PATH", forward
        )
    environment = {k: v for k, v in os.environ.items() if not k.upper().startswith("BACKPROPAGATE_UI")}
    process = subprocess.Popen(
        [program, "tunnel", "--no-autoupdate", "--url", f"http://127.0.0.1:{settings.port}"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    found: list[str] = []
    ready = threading.Event()

    def read() -> None:
        assert process.stderr is not None
        for line in process.stderr:  # to its end, so that the pipe never fills
            if (
                not found
                and (match := ADDRESS.search(line))
                and ("trycloudflare" in line or settings.share_host)
            ):
                found.append(match[1])
                ready.set()
        ready.set()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        ready.wait(settings.share_timeout)
        host = settings.share_host or (found[0] if found else "")
        if not host or process.poll() is not None:
            raise BpError(
                "RUNTIME_UI_SHARE_FAILED",
                f"cloudflared told no address within {settings.share_timeout:g} s",
                forward,
                retryable=True,
            )
        policy.hosts.add(host.lower())
        tell(f"and, for who has the password, at https://{host}{settings.prefix}/")
        yield
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
        if process.poll() is None:
            process.kill()
        reader.join(5)
        assert process.stderr is not None
        process.stderr.close()
