"""Tiny random models of every family, with tokenizers trained on the spot; rows are multiples of 256."""

from __future__ import annotations

import json
import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

CORPUS = [
    "The quick brown fox jumps over the lazy dog. It's 12345 o'clock, isn't it?",
    "def main(argc, argv):\n    return [x ** 2 for x in range(10)]\n\n\n\tprint('tab')",
    "Grüße aus München — naïve café, Ελληνικά, Русский текст, 日本語のテキスト, 한국어, العربية",
    "0 1 22 333 4444 55555 3.14159 1,000,000 2026-11-21T10:00:00Z",
    "we're they've I'll you'd HE'S   multiple   spaces\r\n and \n\n newlines",
] * 20

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_TAIL = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|" + _TAIL
LLAMA = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|" + _TAIL
QWEN35 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
GPT4O = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def byte_level(
    folder: Path, expression: str | None, *, bos: str | None = None, eos: str, size: int = 600, digits=False
):
    """A byte-level BPE tokenizer trained on CORPUS, saved as a folder of files."""
    special = [t for t in (bos, eos) if t] + ["<|im_start|>", "<|im_end|>"]
    special = list(dict.fromkeys(special))
    tok = Tokenizer(models.BPE(ignore_merges=expression == LLAMA))
    if expression in (QWEN, QWEN35):
        tok.normalizer = normalizers.NFC()
    if expression is not None:
        split = pre_tokenizers.Split(Regex(expression), "isolated")
        tok.pre_tokenizer = pre_tokenizers.Sequence(
            [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
    elif digits:
        steps = [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
        tok.pre_tokenizer = pre_tokenizers.Sequence(steps)
    else:
        tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size - len(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tok.train_from_iterator(CORPUS, trainer)
    tok.add_special_tokens(special)
    if bos:
        tok.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, tok.token_to_id(bos))]
        )
    config = {
        "bos_token": bos,
        "eos_token": eos,
        "pad_token": eos,
        "chat_template": CHATML,
        "model_max_length": 2048,
    }
    return _save(tok, folder, config)


def sentencepiece(folder: Path, *, prefix: bool, size: int = 700, template: str | None = None):
    """A byte-fallback BPE over ▁ as transformers converts SentencePiece models: every split of a piece is a merge."""
    base = Tokenizer(models.BPE(unk_token="<unk>"))
    base.normalizer = normalizers.Replace(" ", "▁")
    base.pre_tokenizer = pre_tokenizers.Split(Regex("▁*[^▁]*"), "isolated")
    control = ["<unk>", "<s>", "</s>"] if prefix else ["<pad>", "<eos>", "<bos>", "<unk>"]
    base.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=size - 260, show_progress=False))
    learned = [p for p, _ in sorted(base.get_vocab().items(), key=lambda kv: kv[1])]
    vocab: dict[str, int] = {}
    for piece in [
        *control,
        *(f"<0x{b:02X}>" for b in range(256)),
        *[p for p in learned if len(p) > 1],
        *[p for p in learned if len(p) == 1],
    ]:
        vocab.setdefault(piece, len(vocab))
    merges = []
    for piece in [p for p in learned if len(p) > 1]:
        local = [
            (piece[:i], piece[i:]) for i in range(1, len(piece)) if piece[:i] in vocab and piece[i:] in vocab
        ]
        merges += sorted(local, key=lambda pair: (vocab[pair[0]], vocab[pair[1]]))
    tok = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    replace = normalizers.Replace(" ", "▁")
    tok.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), replace]) if prefix else replace
    if not prefix:
        tok.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tok.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if prefix else steps)
    tok.add_special_tokens(control)
    bos, eos = ("<s>", "</s>") if prefix else ("<bos>", "<eos>")
    tok.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, tok.token_to_id(bos))]
    )
    config = {
        "bos_token": bos,
        "eos_token": eos,
        "unk_token": "<unk>",
        "pad_token": control[0],
        "chat_template": template,
    }
    return _save(tok, folder, config)


def _save(tok: Tokenizer, folder: Path, config: dict) -> Tokenizer:
    folder.mkdir(parents=True, exist_ok=True)
    tok.save(str(folder / "tokenizer.json"))
    config = {k: v for k, v in config.items() if v is not None or k == "bos_token"}
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    (folder / "tokenizer_config.json").write_text(json.dumps(config, ensure_ascii=False))
    return tok


SMALL = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
    "initializer_range": 0.08,
}
_LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
_GEMMA = {
    "head_dim": 64,
    "query_pre_attn_scalar": 64,
    "sliding_window": 16,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
}

# family → (configuration class, fields, tokenizer)
FAMILIES = {
    "llama2": ("LlamaConfig", {}, "spm"),
    "llama3": ("LlamaConfig", {"rope_parameters": _LLAMA3_ROPE, "tie_word_embeddings": True}, "llama3"),
    "mistral": ("MistralConfig", {"head_dim": 32, "sliding_window": None}, "spm"),
    "qwen2": ("Qwen2Config", {}, "qwen"),
    "qwen3": ("Qwen3Config", {"head_dim": 128, "tie_word_embeddings": True}, "qwen"),
    "qwen3moe": (
        "Qwen3MoeConfig",
        {
            "head_dim": 128,
            "moe_intermediate_size": 256,
            "num_experts": 4,
            "num_experts_per_tok": 4,  # all: on random weights, rounding flips a choice among equals
            "norm_topk_prob": True,
        },
        "qwen",
    ),
    "qwen35": (
        "Qwen3_5TextConfig",
        {
            "head_dim": 128,
            "num_hidden_layers": 4,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 128,
            "linear_value_head_dim": 128,
            "layer_types": ["linear_attention"] * 3 + ["full_attention"],
        },
        "qwen35",
    ),
    "phi3": (
        "Phi3Config",
        {
            "pad_token_id": 0,
            "sliding_window": 64,
            "original_max_position_embeddings": 512,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
        "spm",
    ),
    "phi4": (
        "Phi3Config",
        {
            "pad_token_id": 0,
            "sliding_window": None,
            "original_max_position_embeddings": 256,
            "partial_rotary_factor": 0.75,
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 10000.0,
                "short_factor": [1.0 + 0.02 * i for i in range(24)],
                "long_factor": [1.0 + 0.5 * i for i in range(24)],
                "partial_rotary_factor": 0.75,
                "original_max_position_embeddings": 256,
            },
            "tie_word_embeddings": True,
            "eos_token_id": 2,
        },
        "gpt4o",
    ),
    "gemma2": ("Gemma2Config", _GEMMA, "gemma"),
    "gemma3": ("Gemma3TextConfig", {**_GEMMA, "num_hidden_layers": 6}, "gemma"),
    "smollm2": ("LlamaConfig", {"tie_word_embeddings": True}, "smollm"),
    "smollm3": ("SmolLM3Config", {"num_hidden_layers": 4, "pad_token_id": 0}, "llama3"),
}


def build_tokenizer(kind: str, folder: Path) -> Tokenizer:
    """One of the tokenizers that FAMILIES names."""
    return {
        "spm": lambda: sentencepiece(folder, prefix=True),
        "gemma": lambda: sentencepiece(folder, prefix=False),
        "llama3": lambda: byte_level(folder, LLAMA, bos="<|begin_of_text|>", eos="<|eot_id|>"),
        "qwen": lambda: byte_level(folder, QWEN, eos="<|im_end|>"),
        "qwen35": lambda: byte_level(folder, QWEN35, eos="<|im_end|>"),
        "gpt4o": lambda: byte_level(folder, GPT4O, eos="<|endoftext|>"),
        "smollm": lambda: byte_level(folder, None, eos="<|im_end|>", digits=True),
    }[kind]()


def build(
    name: str, folder: Path, *, dtype=torch.float32, seed: int = 0, tokenizer: Path | None = None, **fields
) -> Path:
    """A random model of a family with a tokenizer, saved as transformers saves it."""
    kind, extra, tokens = FAMILIES[name]
    if tokenizer is None:
        tok = build_tokenizer(tokens, folder)
        vocab = tok.get_vocab_size() + 3  # rows beyond the tokenizer, as real models have
    else:
        tok = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
        vocab = max(tok.get_vocab(with_added_tokens=True).values()) + 4
        folder.mkdir(parents=True, exist_ok=True)
        for file in ("tokenizer.json", "tokenizer_config.json"):
            (folder / file).write_bytes((tokenizer / file).read_bytes())
    config = getattr(transformers, kind)(**{**SMALL, **extra, "vocab_size": -(-vocab // 32) * 32, **fields})
    config._attn_implementation = "eager"
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter_name, p in model.named_parameters():
            if p.ndim == 1 and "A_log" not in parameter_name:  # norms and biases are constants otherwise
                p.add_(torch.randn(p.shape, generator=generator) * 0.1)
    model.to(dtype).save_pretrained(folder)
    return folder


def reference(folder: Path):
    """transformers' logits of a saved model: ids → (T, V) f32."""
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()

    def logits(ids: list[int]) -> np.ndarray:
        with torch.no_grad():
            return model(torch.tensor([ids])).logits[0].float().numpy()

    return logits
