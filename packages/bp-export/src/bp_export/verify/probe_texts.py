"""Texts on which tokenizers disagree: whitespace runs, digits, contractions, scripts, emoji, markers, control bytes.

- Every text is in Unicode's composed form (NFC): llama.cpp does not compose, some tokenizers do.
- `</s>` is not among them: llama.cpp takes that text as an end marker in any vocabulary that has it as a piece
  (Qwen3), whatever type the file gives it.
- `PROMPTS` are the plain texts on which logits are compared.
"""

from __future__ import annotations

PROBES = (
    "",
    " ",
    "   leading and trailing   ",
    "Hello, world!",
    "it's we've I'LL they'd CAN'T ''s",
    "1 12 123 1234 12345 1234567890 3.14 1e-10 1,000.00",
    "tabs\tand\nnewlines\n\n\n   \r\n mixed \t\n ",
    "naïve café Straße ångström",
    "日本語のテキスト。中文，한국어 ไทย ខ្មែរ हिन्दी",
    "العربية עברית",
    "🚀🎉👩‍👩‍👧‍👦🏳️‍🌈 ✨",
    "def f(x):\n    return {'a': [1, 2], \"b\": x ** 2}  # comment\n",
    "https://example.org/a?b=c&d=%20#e user@example.com C:\\path\\file",
    "$$\\int_0^1 x^2\\,dx = \\frac{1}{3}$$ ≤ ≥ ≠ ∑ √",
    "\u200bzero\u200dwidth\ufeff \u00a0nbsp\u2003em",
    "a" * 50 + "!" * 20 + "-" * 30 + "=" * 10,
    "ᚠᛇᚻ 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 Ⅷ ½ ² ₃",
    "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n",
    "<s>[INST] x [/INST] <bos> <eos> <unk> <0x0A>",
    "mIxEd CaSe camelCase snake_case SCREAMING_CASE",
    "\x00\x01\x7f control",
)

PROMPTS = (
    "The capital of France is Paris, and the capital of Italy is Rome. In 1969,",
    "def add(a, b):\n    return a + b\n\n\ndef mul(a, b):\n    return",
)
