"""A script of the tests in two processes, started by torchrun; what they print comes back."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def torchrun(
    *command: str, cwd: Path, processes: int = 2, timeout: float = 500
) -> subprocess.CompletedProcess[str]:
    """Run `torchrun --nproc-per-node 2 …`; its processes end with it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    environment = {**os.environ, "PYTHONPATH": str(HERE), "HF_HUB_OFFLINE": "1", "GLOO_SOCKET_IFNAME": "lo"}
    if sys.platform != "linux":
        del environment["GLOO_SOCKET_IFNAME"]
    whole = [*launcher, "--master-addr", "127.0.0.1", "--master-port", str(port), *command]
    with subprocess.Popen(
        whole, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as started:
        try:
            out, told = started.communicate(timeout=timeout)
        except BaseException:
            started.terminate()  # killed, the launcher would leave its processes behind
            started.communicate()
            raise
    return subprocess.CompletedProcess(whole, started.returncode, out, told)
