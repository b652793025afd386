"""The model card: what a stranger needs to know before using the model, from what the run recorded.

- Everything stated comes from `backprop.json` and the files; a section without facts is left out, not filled with
  placeholders.
- The YAML head carries licence, base, relation, library, datasets and the results as model-index, made by
  huggingface_hub's own classes, so that the Hub accepts it.
- A local path never stands in a card: it means nothing elsewhere and tells about the author's machine.
- A card that the author wrote is kept; one that PEFT or this module made is made anew.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bp_export.adapter.directory import AdapterInfo
from bp_export.adapter.licences import Licence
from bp_export.errors import redact

MARK = "<!-- made by bp-export; remove this line to keep your own changes -->"
_BARS = "▁▂▃▄▅▆▇█"
_PEFT_MARK = "[More Information Needed]"
_RELATION = {"adapter": "adapter", "merged": "finetune", "gguf": "quantized"}
_LIBRARY = {"adapter": "peft", "merged": "transformers", "gguf": "gguf"}
_KNOWN_LICENCES = re.compile(
    r"apache-2\.0|mit|bsd-[23]-clause|cc[a-z0-9.-]*|gemma|llama[234](\.[0-9])?|openrail\+?\+?|other|unknown|unlicense"
    r"|[al]?gpl-[0-9.]+|mpl-2\.0"
)


def is_hub_id(ref: str | None) -> bool:
    """Whether a base's name is one that others can load from the Hub (owner/name, and no path here)."""
    return bool(ref and re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", ref) and not Path(ref).exists())


def keeps(readme: Path) -> bool:
    """Whether a README is the author's own."""
    if not readme.is_file():
        return False
    text = readme.read_text("utf-8", errors="replace")
    return MARK not in text and _PEFT_MARK not in text


def make_card(
    info: AdapterInfo | None,
    *,
    kind: str,
    repo_id: str,
    base: str | None,
    licence: Licence,
    files: Sequence[str] = (),
) -> str:
    """The card's text, YAML head included.

    Args:
        info: what the adapter recorded, None for a model whose origin is unknown.
        kind: "adapter", "merged" or "gguf".
        repo_id: where it will lie.
        base: Hub id of the base, None where it has none.
        licence: of the base.
        files: names of the files, for the commands of a GGUF repository.
    """
    name = repo_id.split("/")[-1]
    body = [f"# {name}", MARK, _summary(info, kind, base), _use(kind, repo_id, base, files)]
    if info is not None:
        body += [_training(info), _data(info), _evaluation(info), _loss(info.loss_curve)]
    body += [_limits(base, licence), _reproduce(info, base)]
    head = _head(info, kind=kind, name=name, base=base, licence=licence)
    return redact(f"---\n{head.strip()}\n---\n\n" + "\n\n".join(part for part in body if part) + "\n")


def _head(info: AdapterInfo | None, *, kind: str, name: str, base: str | None, licence: Licence) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type=str(e.get("task") or "text-generation"),
            dataset_type=_slug(str(e.get("dataset") or "custom")),
            dataset_name=_public(str(e.get("dataset") or "custom")),
            dataset_split=e.get("split"),
            metric_type=str(e["metric"]),
            metric_name=str(e.get("metric_name") or e["metric"]),
            metric_value=e["value"],
        )
        for e in (info.evaluation if info else ())
        if e.get("metric") and isinstance(e.get("value"), (int, float))
    ]
    names = [str(d.get("name") or "") for d in (info.datasets if info else ())]
    identifier = licence.id if licence.id and _KNOWN_LICENCES.fullmatch(licence.id) else None
    data = ModelCardData(
        license=identifier or ("other" if licence.id else None),
        license_name=_slug(licence.id) if licence.id and identifier is None else None,
        license_link=licence.link or None,
        base_model=base,
        datasets=[n for n in names if is_hub_id(n)] or None,
        library_name=_LIBRARY[kind],
        pipeline_tag="text-generation",
        tags=["backprop", *(["lora"] if kind == "adapter" else []), *_method_tags(info)],
        model_name=name if results else None,
        eval_results=results or None,
    )
    if base:
        data["base_model_relation"] = _RELATION[kind]
    return data.to_yaml()


def _method_tags(info: AdapterInfo | None) -> list[str]:
    method = (info.method or "").split(":")[0] if info else ""
    return [method] if method in ("sft", "dpo", "orpo", "kto", "grpo", "merge") else []


def _summary(info: AdapterInfo | None, kind: str, base: str | None) -> str:
    what = {
        "adapter": "A LoRA adapter",
        "merged": "A fine-tuned model",
        "gguf": "A fine-tuned model in GGUF",
    }[kind]
    of = f" of [{base}](https://huggingface.co/{base})" if base else ""
    made = f", made with {info.method.split(':')[0].upper()}" if info and info.method else ""
    return f"{what}{of}{made}."


def _use(kind: str, repo_id: str, base: str | None, files: Sequence[str]) -> str:
    if kind == "adapter":
        code = (
            "```python\nfrom peft import AutoPeftModelForCausalLM\nfrom transformers import AutoTokenizer\n\n"
            f'model = AutoPeftModelForCausalLM.from_pretrained("{repo_id}")\n'
            f'tokenizer = AutoTokenizer.from_pretrained("{repo_id}")\n```'
        )
        return f"## Use\n\n{code}" + ("" if base else "\n\nThe base model has no public name; load it first.")
    if kind == "merged":
        return f'## Use\n\n```python\nfrom transformers import pipeline\n\npipeline("text-generation", "{repo_id}")\n```'
    lines = [f"ollama run hf.co/{repo_id}"]
    lines += [f"llama-cli -hf {repo_id} --hf-file {f} -cnv" for f in files if f.endswith(".gguf")]
    return "## Use\n\n```bash\n" + "\n".join(lines) + "\n```"


def _training(info: AdapterInfo) -> str:
    rows: dict[str, Any] = {
        **{k: v for k, v in info.training.items() if isinstance(v, (int, float, str, bool)) and v != ""},
        **{k: info.peft[k] for k in ("r", "lora_alpha", "use_rslora", "use_dora") if info.peft.get(k)},
    }
    targets = info.peft.get("target_modules")
    if isinstance(targets, (list, tuple)) and targets:
        rows["target_modules"] = ", ".join(sorted(map(str, targets)))
    if not rows:
        return ""
    table = "\n".join(f"| {k} | {_cell(v)} |" for k, v in rows.items())
    return f"## Training\n\n| setting | value |\n|---|---|\n{table}"


def _data(info: AdapterInfo) -> str:
    lines = []
    for d in info.datasets:
        name = _public(str(d.get("name") or "unnamed"))
        shown = f"[{name}](https://huggingface.co/datasets/{name})" if is_hub_id(name) else name
        details = [f"{k} `{str(d[k])[:16]}`" for k in ("revision", "fingerprint") if d.get(k)]
        lines.append(f"- {shown}" + (f" ({', '.join(details)})" if details else ""))
    return "## Data\n\n" + "\n".join(lines) if lines else ""


def _evaluation(info: AdapterInfo) -> str:
    rows = [
        f"| {e.get('task', 'text-generation')} | {_public(str(e.get('dataset', 'custom')))} | {e['metric']} | {_cell(e['value'])} |"
        for e in info.evaluation
        if e.get("metric") and e.get("value") is not None
    ]
    return (
        "## Evaluation\n\n| task | data | metric | value |\n|---|---|---|---|\n" + "\n".join(rows)
        if rows
        else ""
    )


def _loss(curve: Sequence[tuple[int, float]]) -> str:
    """The loss as a line of bars and as figures.

    >>> _loss([(1, 2.0), (2, 1.0)]).splitlines()[3]
    '█▁'
    """
    points = [(s, v) for s, v in curve if v == v]
    if len(points) < 2:
        return ""
    shown = [
        points[round(i * (len(points) - 1) / (min(60, len(points)) - 1))] for i in range(min(60, len(points)))
    ]
    low, high = min(v for _, v in shown), max(v for _, v in shown)
    bars = "".join(_BARS[round((v - low) / (high - low or 1) * (len(_BARS) - 1))] for _, v in shown)
    few = [
        points[round(i * (len(points) - 1) / (min(8, len(points)) - 1))] for i in range(min(8, len(points)))
    ]
    table = "| step | " + " | ".join(str(s) for s, _ in few) + " |\n|" + "---|" * (len(few) + 1)
    table += "\n| loss | " + " | ".join(f"{v:.4g}" for _, v in few) + " |"
    return f"## Loss\n\n```\n{bars}\n{high:.4g} … {low:.4g}, steps {points[0][0]} to {points[-1][0]}\n```\n\n{table}"


def _limits(base: str | None, licence: Licence) -> str:
    text = (
        "## Intended use and limits\n\nIt is meant for the task of its training data. Outside of it the answers may be"
        f" wrong in ways that sound right; the limits and biases of {base or 'the base model'} hold here too. Test it on"
        " your own cases before anyone relies on it."
    )
    return f"{text}\n\nLicence: {licence.notice}." if licence.notice else text


def _reproduce(info: AdapterInfo | None, base: str | None) -> str:
    if info is None or not (info.run_id or info.training):
        return ""
    flags = [f"--model {base or 'BASE'}"]
    flags += [f"--data {_public(str(d.get('name') or 'DATA'))}" for d in info.datasets]
    flags += [
        f"--{k.replace('_', '-')} {v}"
        for k, v in info.training.items()
        if isinstance(v, (int, float)) and not isinstance(v, bool) and k != "step"
    ]
    lines = ["backprop train " + " ".join(flags)]
    if info.run_id:
        lines.insert(0, f"backprop replay {info.run_id}   # where the run is recorded")
    return "## Reproduce\n\n```bash\n" + "\n".join(lines) + "\n```"


def _public(name: str) -> str:
    """A data set's name without the author's folders."""
    return name if is_hub_id(name) else re.split(r"[/\\]", name.rstrip("/\\"))[-1] or "custom"


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9._-]+", "-", _public(text).lower()).strip("-") or "custom"


def _cell(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value).replace("|", "\\|").replace("\n", " ")


def public_config(peft: Mapping[str, Any], base: str | None) -> str:
    """adapter_config.json for the Hub: the base under its public name, or only the last part of a path."""
    ref = str(peft.get("base_model_name_or_path") or "")
    name = base or (ref if is_hub_id(ref) else re.split(r"[/\\]", ref.rstrip("/\\"))[-1])
    return json.dumps({**peft, "base_model_name_or_path": name}, indent=2, ensure_ascii=False) + "\n"
