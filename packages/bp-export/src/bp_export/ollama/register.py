"""From a file to `ollama run NAME`: Modelfile, upload, create, and a look at what came of it.

- The chat template, the stop texts and the parameters come from the model's own files; the user's Modelfile or
  arguments win over each of them.
- What is asked of the server is the JSON create call; the Modelfile that means the same is returned (and written
  beside the file), so that everything can be repeated by hand.
- After the create the server is asked what it stored: a model whose template was lost would continue text instead of
  answering, so that is an error, not a note. Then it must answer once.
- The server runs next to the user's secrets: only the named files are sent, never a folder.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bp_merge.common import build, expanded

from bp_export.errors import BpError
from bp_export.ollama.client import Ollama, too_old, version_tuple
from bp_export.ollama.gguf_file import find_gguf
from bp_export.ollama.modelfile import Modelfile, read_modelfile
from bp_export.ollama.names import Name, parse_name, sanitize
from bp_export.ollama.settings import RegisterSettings
from bp_export.ollama.template import ChatFormat, probe, renders_tools

_PASSTHROUGH = "{{ .Prompt }}"
_COMMENTS = {
    "native": "The chat template inside the GGUF file is used (Ollama 0.30 and later): none stands here.",
    "derived": "This TEMPLATE writes system, user and assistant; messages of the role tool are left out.",
}
_NATIVE_JINJA = (0, 30, 0)  # from here on a model without a Go template uses the Jinja in its GGUF file
_GENERATION = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "repetition_penalty": "repeat_penalty",
}

Progress = Callable[[str], None]


@dataclass(frozen=True)
class RegisterResult:
    """A model that the server holds.

    Args:
        name: as `ollama run` takes it.
        modelfile: the Modelfile that means the same as the create call.
        template: "derived", "modelfile", "base" (an adapter on a base that has one), "native" (the Jinja in the GGUF
            file), or None where the model has no chat template.
        stop: texts that end an answer.
        server: the server's version.
        smoke: its first answer, None where it was not asked.
        notes: what the user should know.
        dry_run: nothing was created.
    """

    name: str
    modelfile: str
    template: str | None
    stop: tuple[str, ...]
    server: str
    smoke: str | None
    notes: tuple[str, ...] = field(default=())
    dry_run: bool = False

    def to_dict(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return {
            "name": self.name,
            "template": self.template,
            "stop": list(self.stop),
            "server": self.server,
            "smoke": self.smoke,
            "notes": list(self.notes),
            "modelfile": self.modelfile,
            "dry_run": self.dry_run,
        }


def chat_format(keys: Mapping[str, Any]) -> tuple[str | None, ChatFormat | None]:
    """The Jinja of a GGUF file's keys and the format found in it (either may be None)."""
    jinja = keys.get("tokenizer.chat_template")
    if not isinstance(jinja, str) or not jinja.strip():
        return None, None
    tokens = keys.get("tokenizer.ggml.tokens") or []

    def token(name: str) -> str | None:
        index = keys.get(f"tokenizer.ggml.{name}_token_id")
        return str(tokens[index]) if isinstance(index, int) and index < len(tokens) else None

    # llama.cpp's defaults where the file does not say
    adds = keys.get("tokenizer.ggml.add_bos_token", keys.get("tokenizer.ggml.model") == "llama")
    return jinja, probe(jinja, bos=token("bos"), eos=token("eos"), adds_bos=bool(adds))


def generation_parameters(generation: Mapping[str, Any]) -> dict[str, Any]:
    """Ollama parameters from generation_config.json; sampling settings count only where the model samples."""
    if not generation.get("do_sample"):
        return {}
    return {
        ours: generation[theirs] for theirs, ours in _GENERATION.items() if generation.get(theirs) is not None
    }


def compose(
    from_: str,
    keys: Mapping[str, Any],
    *,
    adapter: str | None = None,
    system: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    licence: str | None = None,
    native: bool = True,
) -> tuple[Modelfile, str | None]:
    """A Modelfile from what a GGUF file (or, for an adapter, its tokenizer) says; and where its template comes from.

    A Jinja that writes tools gets no TEMPLATE line: the server then uses it as it stands in the GGUF file. Where the
    server (`native=False`) cannot, or the file is an adapter and carries none, the frame without tools is written.
    """
    jinja, found = chat_format(keys)
    if found is not None and not (native and adapter is None and jinja and renders_tools(jinja)):
        template, origin = found.go_template(), "derived"
    else:
        template, origin = None, "native" if jinja else None
    chosen = dict(parameters or {})
    stop = list(found.stop) if found is not None else list(_markers(jinja))
    if stop:
        chosen.setdefault("stop", stop)
    file = Modelfile(
        from_,
        adapter,
        template,
        system,
        chosen,
        (licence,) if licence else (),
        comment=_COMMENTS.get(origin or "", ""),
    )
    return file, origin


def register(
    path: Path,
    name: str | None = None,
    *,
    client: Ollama,
    base: str | None = None,
    modelfile: Path | None = None,
    keys: Mapping[str, Any] | None = None,
    system: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    licence: str | None = None,
    no_overwrite: bool = RegisterSettings.no_overwrite,
    smoke: bool = RegisterSettings.smoke,
    write_to: Path | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> RegisterResult:
    """Create an Ollama model from a GGUF file, or from a GGUF adapter on a base.

    Args:
        path: the GGUF model or adapter.
        name: of the new model; the file's name unless given.
        client: the server.
        base: for an adapter: a model that the server has, or the path of a base GGUF file.
        modelfile: the user's own; its FROM and ADAPTER are replaced by the files that are registered.
        keys: GGUF keys that describe the chat; read from `path` unless given (an adapter file has none).
        system: system prompt.
        parameters: Ollama parameters; they win over derived ones.
        licence: licence text or id to store with the model.
        no_overwrite: refuse where a model of that name exists.
        smoke: ask for one short answer.
        write_to: write the Modelfile there.
        dry_run: ask the server what it has, and send and create nothing.
        progress: called with one line at a time.

    Raises:
        BpError: see `bp_export.errors`; nothing was created where it is raised before the create call.
    """
    from bp_export.adapter.directory import write_text
    from bp_export.gguf.read import GgufFile

    given = {
        "name": name,
        "base": base,
        "modelfile": modelfile,
        "system": system,
        "no_overwrite": no_overwrite,
        "smoke": smoke,
    }
    s = build(RegisterSettings, given, command="backprop ollama register")
    name, base, system = s.name, s.base_model, s.system
    gguf = find_gguf(path)
    target = parse_name(name) if name else parse_name(sanitize(gguf.stem))
    told = progress or (lambda _line: None)
    own = read_modelfile(s.modelfile) if s.modelfile is not None else None
    version = client.require()
    notes: list[str] = []
    existing = client.find(target.short)
    if existing is not None and s.no_overwrite:
        raise BpError(
            "OLLAMA_MODEL_EXISTS",
            f"the Ollama server has a model {existing} already",
            f"choose another --name, or leave out --no-overwrite; to remove it: backprop ollama rm {existing}",
        )
    if existing is not None:
        notes.append(f"replaces {existing}")

    header = GgufFile(gguf).keys
    is_adapter = header.get("general.type") == "adapter"
    if is_adapter and base is None:
        raise BpError(
            "INPUT_VALIDATION_FAILED",
            f"{gguf} is an adapter and needs the base it was trained on",
            f"backprop ollama register {gguf} --base-model NAME  (an Ollama model, or a base GGUF file)",
        )
    keys = header if keys is None else keys
    base_file = expanded(base) if base and expanded(base).is_file() else None
    beside = write_to.parent if write_to is not None else None
    shown_from = (
        _shown(base_file or gguf, beside) if base_file or not is_adapter else parse_name(str(base)).short
    )
    composed, origin = compose(
        shown_from,
        keys,
        adapter=_shown(gguf, beside) if is_adapter else None,
        system=system,
        parameters=parameters,
        licence=licence,
        native=version_tuple(version) >= _NATIVE_JINJA,
    )
    replaced = own is not None and own.template is not None
    if origin == "derived" and not replaced and renders_tools(str(keys["tokenizer.chat_template"])):
        notes.append(
            "tools are lost: the model's chat template writes tools and calls, the Go template only the conversation"
            + (
                "; Ollama 0.30 uses the model's own"
                if not is_adapter
                else "; export it merged: --format gguf"
            )
        )
    if own is not None:
        composed, origin = _merge(composed, own), "modelfile" if own.template is not None else origin
    if is_adapter and origin is None:
        origin = "base"

    body: dict[str, Any] = {"model": target.short, **composed.request()}
    if is_adapter and base_file is None:
        body["from"] = existing_base(client, str(base))
    text = composed.render()
    stop = tuple(composed.parameters.get("stop") or ())
    if dry_run:
        return RegisterResult(target.short, text, origin, stop, version, None, tuple(notes), dry_run=True)
    files, adapters = ([], [gguf]) if is_adapter else ([gguf], [])
    if base_file is not None:
        files = [find_gguf(base_file)]
    for field_name, paths in (("files", files), ("adapters", adapters)):
        for file in paths:
            told(f"sending {file.name}")
            body.setdefault(field_name, {})[_safe(file.name)] = client.upload(file)
    client.create(body, lambda line: told(str(line.get("status", ""))))
    if write_to is not None:
        write_text(write_to, text)
    _check_template(client, target, composed, origin, version)
    answer = None
    if s.smoke:
        told("asking for a first answer")
        answer = client.generate(target.short, "Hello!")
        if not answer.strip():
            notes.append("the first answer was empty: the model may end its turn at once")
    if origin is None:
        notes.append("the model has no chat template: it continues text (a base model)")
    if origin == "native":
        notes.append(
            "the chat template is more than a frame; Ollama (from 0.30) uses the Jinja inside the GGUF file"
        )
    return RegisterResult(target.short, text, origin, stop, version, answer, tuple(notes))


def shelf(client: Ollama, base: str) -> list[dict[str, Any]]:
    """The adapters that are registered on one base: [{"name", "tag", "size", "parent"}].

    A model counts when its Modelfile has an ADAPTER line and its parent is the base, or, where the server does not
    tell the parent, when it shares the base's name. A plain tag of the base (`llama3.2:1b`) is no adapter.
    """
    wanted = parse_name(base)
    found = []
    for model in client.models():
        name = str(model.get("name") or model.get("model"))
        shown = client.show(name)
        if not re.search(r"^\s*ADAPTER\s", str(shown.get("modelfile", "")), re.MULTILINE | re.IGNORECASE):
            continue
        parent = str((shown.get("details") or {}).get("parent_model") or "")
        of_base = (
            parse_name(parent).key == wanted.key if parent else parse_name(name).untagged == wanted.untagged
        )
        if of_base:
            found.append(
                {
                    "name": name,
                    "tag": parse_name(name).tag,
                    "size": model.get("size"),
                    "parent": parent or None,
                }
            )
    return sorted(found, key=lambda m: m["name"])


def existing_base(client: Ollama, base: str) -> str:
    """The server's own name of a base model.

    Raises:
        BpError: `OLLAMA_MODEL_NOT_FOUND`.
    """
    found = client.find(base)
    if found is None:
        raise BpError(
            "OLLAMA_MODEL_NOT_FOUND",
            f"the Ollama server has no base model {base}",
            f"ollama pull {base}",
        )
    return found


def _merge(ours: Modelfile, own: Modelfile) -> Modelfile:
    """The user's file over ours; what is registered stays what was named."""
    return Modelfile(
        from_=ours.from_,
        adapter=ours.adapter,
        template=own.template if own.template is not None else ours.template,
        system=own.system if own.system is not None else ours.system,
        parameters={**ours.parameters, **own.parameters},
        license=own.license or ours.license,
        messages=own.messages,
        other=own.other,
        comment=ours.comment if own.template is None else "",
    )


def _check_template(client: Ollama, name: Name, sent: Modelfile, origin: str | None, version: str) -> None:
    stored = str(client.show(name.short).get("template") or "")
    lost = stored.strip() == _PASSTHROUGH
    if sent.template is not None and lost and sent.template.strip() != _PASSTHROUGH:
        raise BpError(
            "OLLAMA_TEMPLATE_LOST",
            f"{name.short} was created, but the server stored no chat template for it",
            f"backprop ollama rm {name.short}, then give a template: --modelfile FILE",
        )
    if origin == "native" and lost and version_tuple(version) < _NATIVE_JINJA:
        raise too_old(
            f"{name.short}: this chat template cannot be written as a Go template, and Ollama {version} does not use the"
            " Jinja inside a GGUF file (0.30 does)"
        )


def _markers(jinja: str | None) -> tuple[str, ...]:
    """Ends of turns that stand in a Jinja text literally, for templates whose frame could not be found."""
    known = ("<|im_end|>", "<|eot_id|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "</s>")
    return tuple(k for k in known if jinja and k in jinja)


def _shown(file: Path, beside: Path | None) -> str:
    if beside is not None and file.resolve().parent == beside.resolve():
        return f"./{file.name}"
    return str(file.resolve())


def _safe(name: str) -> str:
    """A file name that Ollama takes: relative, without separators; its suffix decides the type."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", name).lstrip(".") or "model.gguf"
