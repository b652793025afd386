"""llama.cpp behind one small interface: tokenize, logits, greedy text.

- llama-cpp-python where the user has it (it compiles on install), else `xllamacpp`, a prebuilt wheel. Without either
  `open_runtime` returns None, and the caller says what was not checked.
- xllamacpp is a server in this process: it is driven over loopback, with a random key, on a port of its own.
- The server gives the distribution of the next token only where the sampled token is valid UTF-8. A bias pins the
  sampled token to a plain letter; the reported probabilities are those before the bias, so they are unharmed.
- An answer lists the whole vocabulary: of 150,000 tokens 10 MB of JSON. The two numbers of each are read out of its
  bytes; parsed as objects they cost five times the processor time and 100 MB.
- Exactness before speed: f32 KV cache and no flash attention, because this runtime exists to compare logits.
"""

from __future__ import annotations

import contextlib
import importlib.util
import re
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from bp_merge.common import BpError

# Inside a JSON string every quote is escaped, so that neither can be met in the text of a token.
_ID, _LOGPROB = re.compile(rb'"id":(\d+)'), re.compile(rb'"logprob":([^,}\]]+)')


class Runtime(Protocol):
    """A loaded model in llama.cpp."""

    name: str

    def tokenize(self, text: str, *, add_special: bool = True, parse_special: bool = True) -> list[int]:
        """Token ids of a text."""
        ...

    def logits(self, ids: Sequence[int], start: int = 0) -> np.ndarray:
        """Log-probabilities after each of ids[start:], (T, V) f32."""
        ...

    def generate(self, ids: Sequence[int], n: int) -> list[int]:
        """At most n greedy tokens, fewer when the model stops."""
        ...

    def close(self) -> None:
        """Free the model."""
        ...


def available() -> str | None:
    """Which llama.cpp there is: "llama-cpp-python", "xllamacpp" or None."""
    for module, name in (("llama_cpp", "llama-cpp-python"), ("xllamacpp", "xllamacpp")):
        if importlib.util.find_spec(module) is not None:
            return name
    return None


def open_runtime(
    path: Path, *, context: int = 512, threads: int = 1, lora: Sequence[tuple[Path, float]] = ()
) -> Runtime | None:
    """Load a GGUF file in llama.cpp.

    Args:
        path: a GGUF model.
        context: tokens of context.
        threads: CPU threads.
        lora: GGUF LoRA files with their scales.

    Returns:
        The runtime, or None when no llama.cpp is installed.

    Raises:
        BpError: `RUNTIME_LLAMA_LOAD_FAILED` when llama.cpp refuses the file.
    """
    name = available()
    if name is None:
        return None
    kind = LlamaCppPython if name == "llama-cpp-python" else Xllamacpp
    return kind(Path(path), context, threads, lora)


def _load_failed(path: Path, name: str, why: object) -> BpError:
    return BpError(
        "RUNTIME_LLAMA_LOAD_FAILED",
        f"llama.cpp ({name}) does not load {path}: {str(why).splitlines()[0] if str(why) else type(why).__name__}",
        f"backprop export --verify {path}",
    )


def log_probabilities(answer: bytes) -> np.ndarray:
    """Log-probabilities by token id, (V,) f32, of a /completion answer of one token; NaN where the server has null.

    Raises:
        ValueError: the answer does not hold each id of the vocabulary once.

    Example:
        >>> log_probabilities(b'{"top_logprobs":[{"id":1,"logprob":-0.5},{"id":0,"logprob":null}]}')
        array([ nan, -0.5], dtype=float32)
    """
    start = max(0, answer.find(b'"top_logprobs":'))
    ids = np.array(_ID.findall(answer, start)).astype(np.int64)
    values = [v.strip() for v in _LOGPROB.findall(answer, start)]
    row = np.full(len(ids), np.nan, np.float32)
    if not len(ids) or len(values) != len(ids) or set(ids.tolist()) != set(range(len(ids))):
        raise ValueError(f"llama.cpp listed {len(ids)} tokens and {len(values)} log-probabilities")
    row[ids] = np.array([b"nan" if v == b"null" else v for v in values]).astype(np.float32)
    return row


class Xllamacpp:
    """llama.cpp's server in this process."""

    name = "xllamacpp"

    def __init__(self, path: Path, context: int, threads: int, lora: Sequence[tuple[Path, float]]) -> None:
        import httpx
        import xllamacpp

        x: Any = xllamacpp

        params = x.CommonParams()
        params.model.path = str(path)
        params.n_ctx, params.n_parallel, params.n_gpu_layers = context, 1, 0
        params.n_batch = params.n_ubatch = min(512, context)
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
        params.cache_type_k = params.cache_type_v = x.ggml_type.GGML_TYPE_F32
        params.flash_attn_type = x.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.warmup = params.fit_params = params.ui = params.use_jinja = False
        params.cache_ram_mib = params.n_ctx_checkpoints = 0
        params.verbosity = -1
        key = secrets.token_urlsafe(24)
        params.api_keys = [key]
        if lora:
            params.lora_adapters = [x.CommonAdapterLoraInfo(str(file), scale) for file, scale in lora]
        try:
            self._server: Any = x.Server(params)
        except RuntimeError as error:
            raise _load_failed(path, self.name, error) from error
        headers = {"Authorization": f"Bearer {key}"}
        self._http = httpx.Client(
            base_url=self._server.listening_address, headers=headers, timeout=600, trust_env=False
        )
        self._pinned = self.tokenize("a", add_special=False)[-1]
        self._vocab = 0

    def tokenize(self, text: str, *, add_special: bool = True, parse_special: bool = True) -> list[int]:
        """Token ids of a text."""
        if not text and not add_special:
            return []
        body = {"content": text, "add_special": add_special, "parse_special": parse_special}
        return list(self._post("/tokenize", body)["tokens"])

    def logits(self, ids: Sequence[int], start: int = 0) -> np.ndarray:
        """Log-probabilities after each of ids[start:], (T, V) f32: softmax does not change them."""
        return np.stack([self._next(list(ids[: i + 1])) for i in range(start, len(ids))])

    def _next(self, ids: list[int]) -> np.ndarray:
        body = {
            "prompt": ids,
            "n_predict": 1,
            "temperature": -1,
            "n_probs": self._vocab or 1 << 20,
            "logit_bias": [[self._pinned, 1e6]],
            "cache_prompt": True,
        }
        row = log_probabilities(self._send("/completion", body).content)
        self._vocab = len(row)
        return row

    def generate(self, ids: Sequence[int], n: int) -> list[int]:
        """At most n greedy tokens, fewer when the model stops."""
        body = {
            "prompt": list(ids),
            "n_predict": n,
            "temperature": 0,
            "return_tokens": True,
            "cache_prompt": False,
        }
        return list(self._post("/completion", body)["tokens"])

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        return self._send(path, body).json()

    def _send(self, path: str, body: dict[str, Any]) -> Any:
        answer = self._http.post(path, json=body)
        if answer.status_code != 200:
            raise BpError(
                "RUNTIME_LLAMA_LOAD_FAILED", f"llama.cpp answered {answer.status_code}: {answer.text[:200]}"
            )
        return answer

    def close(self) -> None:
        """Stop the server and free the model."""
        self._http.close()
        self._server = None


class LlamaCppPython:
    """llama.cpp as llama-cpp-python binds it."""

    name = "llama-cpp-python"

    def __init__(self, path: Path, context: int, threads: int, lora: Sequence[tuple[Path, float]]) -> None:
        import llama_cpp

        if len(lora) > 1:
            raise ValueError("llama-cpp-python loads one LoRA file")
        extra = {"lora_path": str(lora[0][0]), "lora_scale": lora[0][1]} if lora else {}
        try:
            self._model: Any = llama_cpp.Llama(
                str(path),
                n_ctx=context,
                n_batch=context,
                n_threads=threads,
                n_gpu_layers=0,
                logits_all=True,
                type_k=0,
                type_v=0,
                verbose=False,
                **extra,
            )
        except (ValueError, RuntimeError) as error:
            raise _load_failed(path, self.name, error) from error

    def tokenize(self, text: str, *, add_special: bool = True, parse_special: bool = True) -> list[int]:
        """Token ids of a text."""
        return self._model.tokenize(text.encode(), add_bos=add_special, special=parse_special)

    def logits(self, ids: Sequence[int], start: int = 0) -> np.ndarray:
        """Logits after each of ids[start:], (T, V) f32."""
        self._model.reset()
        self._model.eval(list(ids))
        return np.array(self._model.scores[start : len(ids)], np.float32)

    def generate(self, ids: Sequence[int], n: int) -> list[int]:
        """At most n greedy tokens, fewer when the model stops."""
        found: list[int] = []
        stop = self._model.token_eos()
        for token in self._model.generate(list(ids), temp=0.0):
            if token == stop or len(found) == n:
                break
            found.append(token)
        return found

    def close(self) -> None:
        """Free the model."""
        with contextlib.suppress(AttributeError):
            self._model.close()
