"""A GGUF file that answers in llama.cpp: its own tokenizer, its own chat template, one request at a time.

- llama.cpp's server runs in this process (`xllamacpp`) on a loopback port of its own behind a random key.
- Exactness before speed: f32 KV cache, no flash attention, one place, so that an answer is that of the file alone.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

from bp_merge.common import BpError

from bp_core.generation.endpoint import Endpoint


class LlamaFile(Endpoint):
    """A GGUF file behind an endpoint of this process.

    Args:
        path: the file.
        context: tokens of prompt and answer together.
        threads: of the processor.

    Raises:
        BpError: `DEP_LLAMA_MISSING` without xllamacpp; `RUNTIME_LLAMA_LOAD_FAILED` for a file that llama.cpp refuses.
    """

    def __init__(self, path: Path, *, context: int = 4096, threads: int = 1) -> None:
        try:
            import xllamacpp
        except ImportError:
            raise BpError(
                "DEP_LLAMA_MISSING",
                f"{path} can only answer in llama.cpp, which is not installed",
                "pip install 'bp-export[verify]'",
            ) from None
        x: Any = xllamacpp
        params = x.CommonParams()
        params.model.path = str(path)
        params.n_ctx, params.n_parallel, params.n_gpu_layers = context, 1, 0
        params.n_batch = params.n_ubatch = min(512, context)
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
        params.cache_type_k = params.cache_type_v = x.ggml_type.GGML_TYPE_F32
        params.flash_attn_type = x.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.warmup = params.fit_params = params.ui = False
        params.use_jinja = True
        params.cache_ram_mib = params.n_ctx_checkpoints = 0
        params.verbosity = -1
        key = secrets.token_urlsafe(24)
        params.api_keys = [key]
        try:
            self._server: Any = x.Server(params)
        except RuntimeError as error:
            raise BpError(
                "RUNTIME_LLAMA_LOAD_FAILED",
                f"llama.cpp does not load {path}: {str(error).splitlines()[0] if str(error) else 'no reason given'}",
                f"backprop export --verify {path}",
            ) from error
        super().__init__(f"{self._server.listening_address}/v1", model=path.name, key=key, parallel=1)
        self.name = str(path)

    def close(self) -> None:
        """Stop the server and free the model."""
        super().close()
        self._server = None
