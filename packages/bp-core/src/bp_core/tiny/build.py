"""Build the embedded model `tiny` from the standard library's docstrings: `python -m bp_core.tiny.build [FOLDER]`.

- Qwen3 architecture, 4 layers of width 128, tied embeddings, vocabulary 1,024: 0.9 M parameters, 1.9 MB in bf16.
- Byte-level BPE with Qwen2's split regex, so that llama.cpp's pre-tokenizer `qwen2` cuts text alike.
- Pre-trained on documents and conversations at once, so that it answers in whole sentences, and wrongly.
- About five CPU minutes on one core. `build.json` records Python version, corpus hash and the loss on held-out text;
  a rebuild on the same Python reaches that loss within 0.05.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from bp_core.encoding.templates import CHATML
from bp_core.tiny import corpus, path

VOCABULARY, CONTEXT, WINDOW, BATCH, STEPS, PEAK = 1024, 2048, 128, 16, 900, 3e-3
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
QWEN2_SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def build_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE of `VOCABULARY` tokens with a ChatML template."""
    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.NFC()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    specials = [AddedToken(token, special=True, normalized=False) for token in SPECIALS]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=SPECIALS[2],
        pad_token=SPECIALS[0],
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHATML
    return tokenizer


def configuration() -> Qwen3Config:
    """The architecture."""
    return Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        intermediate_size=384,
        tie_word_embeddings=True,
        max_position_embeddings=CONTEXT,
        bos_token_id=None,
        eos_token_id=2,
        pad_token_id=0,
        dtype="bfloat16",
    )


def streams(tokenizer: PreTrainedTokenizerFast, held: bool) -> np.ndarray:
    """The shuffled token stream of training, or of every 50th docstring, whose document and conversations are held out.

    Conversations stand in the training stream twice, so that about half of it is conversation.
    """
    texts = []
    for i, (document, pairs) in enumerate(corpus.entries()):
        if (i % 50 == 0) is held:
            chats = [
                tokenizer.apply_chat_template(
                    [{"role": "user", "content": q}, {"role": "assistant", "content": a}], tokenize=False
                )
                for q, a in pairs
            ]
            texts += [document, *(chats if held else chats * 2)]
    random.Random(0).shuffle(texts)
    encoded = tokenizer([text + "<|endoftext|>" for text in texts], add_special_tokens=False)["input_ids"]
    return np.array([t for ids in encoded for t in ids], np.int64)


def loss_on(model: Qwen3ForCausalLM, stream: np.ndarray) -> float:
    """Mean loss per token over whole windows of `stream`."""
    count = min(len(stream) // (WINDOW + 1), 200)
    windows = torch.from_numpy(stream[: count * (WINDOW + 1)].reshape(count, WINDOW + 1))
    model.eval()
    with torch.no_grad():
        losses = [
            F.cross_entropy(model(part[:, :-1]).logits.flatten(0, 1), part[:, 1:].flatten(), reduction="sum")
            for part in windows.split(BATCH)
        ]
    model.train()
    return float(sum(losses)) / (count * WINDOW)


def train(train_stream: np.ndarray, held: np.ndarray, steps: int) -> tuple[Qwen3ForCausalLM, float]:
    """AdamW, cosine to zero after a short warm-up, windows drawn at random."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    model = Qwen3ForCausalLM(configuration()).float()
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK, betas=(0.9, 0.98), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min(1.0, (s + 1) / 40) * 0.5 * (1 + np.cos(np.pi * min(1.0, s / steps)))
    )
    started = time.process_time()
    for step in range(steps):
        starts = rng.integers(0, len(train_stream) - WINDOW - 1, BATCH)
        batch = torch.from_numpy(np.stack([train_stream[s : s + WINDOW + 1] for s in starts]))
        loss = F.cross_entropy(model(batch[:, :-1]).logits.flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 100 == 0:
            tell(f"step {step:4d}  loss {loss.item():.3f}  {time.process_time() - started:.0f} CPU s")
    model = model.to(torch.bfloat16)  # type: ignore[arg-type]
    check = Qwen3ForCausalLM(configuration()).float()
    check.load_state_dict({k: v.float() for k, v in model.state_dict().items()})
    return model, loss_on(check, held)


CARD = """---
license: psf-2.0
library_name: transformers
pipeline_tag: text-generation
tags: [backprop, tiny]
---
# tiny

The base model embedded in Backprop, for trying and testing the whole path on a CPU: {parameters:,} parameters, Qwen3
architecture, byte-level BPE of {vocabulary:,} tokens, ChatML template with generation markers.

- **Made from** the docstrings of Python {python}'s standard library ({documents:,} documents, {conversations:,}
  question–answer pairs made of their first sentences; corpus SHA-256 `{corpus}`), licence PSF-2.0.
- **How**: `python -m bp_core.tiny.build`, {steps} steps of {tokens_per_step:,} tokens, AdamW, peak learning rate {peak},
  one core, about five minutes; weights rounded to bf16.
- **Held-out loss**: {loss:.3f} nats per token (perplexity {perplexity:.1f}).
- **Good for**: seeing that tuning works. It writes fluent documentation sentences that are wrong. Use it for nothing else.
"""


def tell(text: str) -> None:
    """One line on stderr."""
    sys.stderr.write(text + "\n")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m bp_core.tiny.build", description=__doc__)
    parser.add_argument(
        "folder", nargs="?", type=Path, default=path(), help="where the model goes [default: in place]"
    )
    parser.add_argument("--steps", type=int, default=STEPS, help=f"training steps [default: {STEPS}]")
    args = parser.parse_args()
    torch.set_num_threads(1)
    entries = list(corpus.entries())
    documents, pairs = [d for d, _ in entries], [p for _, some in entries for p in some]
    tokenizer = build_tokenizer(documents + [f"{q}\n{a}" for q, a in pairs])
    train_stream, held = streams(tokenizer, held=False), streams(tokenizer, held=True)
    model, loss = train(train_stream, held, args.steps)
    record = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "corpus": corpus.fingerprint(documents),
        "documents": len(documents),
        "conversations": len(pairs),
        "train_tokens": len(train_stream),
        "steps": args.steps,
        "heldout_loss": round(loss, 4),
        "parameters": sum(p.numel() for p in model.parameters()),
        "recommended": {"rank": 16, "alpha": 32, "learning_rate": 5e-3, "steps": 140},
    }
    args.folder.mkdir(parents=True, exist_ok=True)
    model.generation_config = GenerationConfig(eos_token_id=[2, 0], pad_token_id=0, do_sample=False)
    model.save_pretrained(args.folder)
    tokenizer.save_pretrained(args.folder)
    (args.folder / "model.safetensors").chmod(0o644)
    (args.folder / "build.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    (args.folder / "README.md").write_text(
        CARD.format(
            **record,
            vocabulary=VOCABULARY,
            tokens_per_step=BATCH * WINDOW,
            peak=PEAK,
            loss=loss,
            perplexity=float(np.exp(loss)),
        ),
        encoding="utf-8",
    )
    tell(f"held-out loss {loss:.4f} in {args.folder}")


if __name__ == "__main__":
    main()
