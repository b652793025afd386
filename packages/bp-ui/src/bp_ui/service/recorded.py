"""A command, recorded as the job that is asked for and as no other: `python -m bp_ui.service.recorded '{"kind": …}' COMMAND …`.

- A process of its own, like every job: it makes the row, runs the command, keeps its JSON as the result, ends the row.
- A request to stop ends the command.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence

from bp_merge.common import BpError, render_error

from bp_ui.service.jobs import COMMAND, from_dict, last_json

LOOK_EVERY = 0.5


def main(arguments: Sequence[str]) -> int:
    """Run the command in a job; returns the exit code."""
    from bp_core.runs.jobs import IN_JOB, record_job

    about = json.loads(arguments[0])
    command = list(arguments[1:])
    try:
        with record_job(
            about["output"],
            about["kind"],
            card="cpu",
            tell=lambda line: None,
            config={about["kind"]: {"command": ["backprop", *command]}},
            name=about.get("name", ""),
            parent=about.get("parent"),
            run_id=about["run_id"],
        ) as run:
            run.begin(unit=about.get("unit", "steps"))
            with (
                (run.path / "out.json").open("wb") as out,
                subprocess.Popen(
                    [*COMMAND, *command, "--json"],
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    env={**os.environ, IN_JOB: about["run_id"]},
                ) as process,
            ):
                while True:
                    try:
                        process.wait(LOOK_EVERY)
                        break
                    except subprocess.TimeoutExpired:
                        if run.stop_asked():
                            process.terminate()
                            process.wait()
                            raise run.cancelled() from None
            told = last_json((run.path / "out.json").read_text(encoding="utf-8", errors="replace"))
            if "error" in told:
                raise from_dict(told["error"])
            if not told:
                raise BpError(
                    "RUNTIME_UNEXPECTED",
                    f"the command ended with {process.returncode} and no result",
                    "backprop info",
                )
            run.finish("completed", {**told, "exit_code": process.returncode})
    except BpError as error:
        sys.stdout.write(render_error(error, as_json=True) + "\n")
        sys.stderr.write(render_error(error) + "\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
