"""The most memory that a training holds at a time, by component, from shapes alone. No torch.

- Nothing here is fitted. Each term is a tensor that the step keeps: what transformers' layers, PEFT's LoRA layer and the
  chunked loss save for their backward passes, and what is alive beside it at the moments when most is.
- The peak is the largest of a few moments: the loss of the last chunk; the backward pass of the last layer, when nearly
  all activations still live; that of the first one, when all gradients do; the optimizer's update.
- A token's activations in a layer of width h, with q and k the widths of queries and keys, m that of the MLP, a bytes
  each: what the norms keep (fp32), the inputs of layers that learn, q, k, v and the attention's output, three tensors
  of the MLP. Autocast gives each LoRA layer a 16-bit copy of its input; without it they share one.
- A mixture of experts keeps of each token what its active experts keep, and their outputs. A delta rule keeps its
  states in fp32, as transformers' own code computes it; kernels of flash-linear-attention keep less.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

from bp_core.memory.shapes import Layer, Shapes
from bp_core.memory.workload import QUANTISED, Workload
from bp_core.settings.tables import RL_METHODS

CONTEXT = 0.55e9  # bytes that CUDA itself and its libraries hold on a card
SLACK = 0.05  # share of what comes and goes that the caching allocator wastes in between
PROCESS = 0.7e9  # bytes of Python with torch, transformers and PEFT, where main memory is the limit
MOMENTS = {"lion": 1, "rmsprop": 1, "adagrad": 1, "ademamix": 3}  # numbers kept of a weight; AdamW keeps two
TRL_CHUNK, TRL_POSITIONS = (
    32_768,
    4096,
)  # words and positions of a tile of logits in TRL's trainers by rewards
COMPONENTS = ("weights", "adapter", "gradients", "optimizer", "activations", "logits", "overhead")


@dataclasses.dataclass(frozen=True)
class Overhead:
    """What a machine takes beside the tensors: by default as most cards do, else as measured (`calibrate`).

    Args:
        fixed: bytes, whatever is trained.
        share: of gradients, activations and logits.
    """

    fixed: float
    share: float

    @classmethod
    def usual(cls, device: str) -> Overhead:
        """Of a card, or of main memory."""
        return cls(CONTEXT, SLACK) if device == "cuda" else cls(PROCESS, SLACK)


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Bytes at the moment when most are held.

    Args:
        components: bytes by the names of `COMPONENTS`.
        moment: when that is.
        trainable: parameters that learn.
    """

    components: Mapping[str, int]
    moment: str
    trainable: int

    @property
    def total(self) -> int:
        """All of it."""
        return sum(self.components.values())

    @property
    def allocated(self) -> int:
        """What tensors hold: without the overhead."""
        return self.total - self.components["overhead"]


@dataclasses.dataclass(frozen=True)
class _Moment:
    name: str
    gradients: float
    activations: float
    logits: float = 0.0

    @property
    def total(self) -> float:
        return self.gradients + self.activations + self.logits


def estimate(shapes: Shapes, load: Workload, overhead: Overhead | None = None) -> Estimate:
    """The peak of a training.

    Args:
        shapes: of the model.
        load: of the run.
        overhead: of the machine; the usual one of its kind unless given.

    Example:
        Qwen2.5-7B in nf4 with a rank-32 adapter on one row of 2,048 tokens holds 5.5 GB of weights, 0.3 GB of adapter,
        twice that of optimizer state, and little more than a layer's activations with checkpointing.
    """
    overhead = overhead or Overhead.usual(load.device)
    trainable = trainable_parameters(shapes, load)
    per_weight = load.weight_bytes if load.mode == "full" else 4
    here = trainable  # on the device, with its gradients; the optimizer's part leaves out a layer that is passing by
    if load.offload:
        here = shapes.embedding_parameters + shapes.hidden + shapes.layer_parameters
    settled = here - shapes.layer_parameters if load.offload else here
    gradients = here * per_weight
    moments = (_moments_of_rl if load.method in RL_METHODS else _moments)(shapes, load, float(gradients))
    worst = max(moments, key=lambda m: m.total)
    found = {
        "weights": (here + shapes.beside) * per_weight if load.offload else weight_bytes(shapes, load),
        "adapter": 0 if load.mode == "full" else 4 * trainable * (2 if load.method in RL_METHODS else 1),
        "gradients": worst.gradients,
        "optimizer": optimizer_bytes(shapes, load, settled, per_weight),
        "activations": worst.activations,
        "logits": worst.logits,
        "overhead": overhead.fixed + overhead.share * worst.total,
    }
    return Estimate({name: math.ceil(value) for name, value in found.items()}, worst.name, trainable)


def weight_bytes(shapes: Shapes, load: Workload) -> int:
    """Bytes of the base model in memory; embedding, output head and norms are never quantised."""
    each = QUANTISED[load.quantization]
    linear, everything = shapes.linear_parameters, shapes.parameters + shapes.beside
    if each is None:
        return everything * load.weight_bytes
    rows = 0
    if each == 1:
        rows = 4 * sum(
            layer.count * sum(out for out, _ in layer.linears.values()) for layer in shapes.sorts_of_layers
        )
    return math.ceil(linear * each) + rows + (everything - linear) * load.weight_bytes


def trainable_parameters(shapes: Shapes, load: Workload) -> int:
    """Parameters that learn: those of the adapter, or all of the language part."""
    if load.mode == "full":
        return shapes.parameters
    return sum(
        layer.count * (load.rank * (out + into) + (out if load.dora else 0))
        for layer in shapes.sorts_of_layers
        for out, into in layer.targets(load.targets).values()
    )


def optimizer_bytes(shapes: Shapes, load: Workload, trainable: int, per_weight: int) -> int:
    """State of the optimizer between steps; 8-bit moments have an fp32 scale per 256 values."""
    if load.optim == "sgd":
        return 0
    if load.optim == "adafactor":
        full, sides = load.mode == "full", shapes.vocabulary if load.mode == "full" else 0
        for layer in shapes.sorts_of_layers:
            pairs = (layer.linears if full else layer.targets(load.targets)).values()
            sides += layer.count * sum(out + into + (0 if full else 2 * load.rank) for out, into in pairs)
            if (
                full and layer.sparse and (e := shapes.experts) is not None
            ):  # two matrices an expert, and the router
                sides += layer.count * e.count * (3 * e.width + 2 * shapes.hidden + 1)
        return 4 * sides
    name = load.optim.removeprefix("paged_").split("_")[0]
    moments = MOMENTS.get(name, 2)
    if "8bit" in load.optim:
        return math.ceil(moments * trainable * (1 + 4 / 256))
    return moments * trainable * per_weight


def layer_bytes(shapes: Shapes, load: Workload, layer: Layer) -> float:
    """Activations that one layer keeps of one token for its backward pass."""
    h, a, family = shapes.hidden, load.activation_bytes, shapes.family
    targets = layer.targets(load.targets) if load.mode == "lora" else layer.linears
    qk_norm = family.qk_norm and not layer.delta
    normed = family.norms * h + (shapes.queries + shapes.keys if qk_norm else 0)
    kept = 4.0 * (normed + family.norms + (shapes.heads + shapes.kv_heads if qk_norm else 0))
    if load.mode == "full":
        kept += (
            4 if family.norms == 4 else load.weight_bytes
        ) * normed  # a norm that learns keeps its normed input
    kept += a * _inputs(shapes, load, layer, tuple(targets))
    if load.mode == "lora":
        kept += a * load.rank * len(targets)
        if load.dora:
            kept += a * 2 * sum(out for out, _ in targets.values())
    kept += _delta_bytes(shapes, load) if layer.delta else _attention_bytes(shapes, load, tuple(targets))
    return kept + (_expert_bytes(shapes, load) if layer.sparse else a * 3 * shapes.intermediate)


def _attention_bytes(shapes: Shapes, load: Workload, learning: tuple[str, ...]) -> float:
    """q, k, v and the output of attention, with its row sums."""
    q, k, a = shapes.queries, shapes.keys, load.activation_bytes
    kept = a * (2 * q + 2 * k) + 4.0 * shapes.heads
    if shapes.family.fused:
        kept += a * (q + k)  # v is a view of the one projection, which is kept with it
    if shapes.family.gated:
        # the gate, and with a layer that learns from it the gated output; queries keep their projection with the gate's
        kept += a * (q + (q if "o_proj" in learning and not load.half else 0))
    return kept


def _delta_bytes(shapes: Shapes, load: Workload) -> float:
    """What the gated delta rule keeps, by chunks of 64 positions."""
    d, a = shapes.delta, load.activation_bytes
    assert d is not None
    keys, values, mixed = (
        d.heads * d.key_dim,
        d.values,
        2 * d.keys + d.values,
    )  # keys are repeated for their values
    kept = a * (2 * mixed + values)  # around the convolution, and the gate
    # fp32: norms of q and k, both normed, with beta and with decay; values, corrected and new; the output
    kept += 4.0 * (8 * keys + 5 * values)
    kept += 4.0 * 5 * 64 * d.heads  # pairs of a chunk
    return kept + 4.0 * 2 * d.heads * d.key_dim * d.head_dim / 64  # the state at each chunk


def _expert_bytes(shapes: Shapes, load: Workload) -> float:
    """What the active experts of a token keep, what the router does, and an MLP beside them."""
    e, h, a = shapes.experts, shapes.hidden, load.activation_bytes
    assert e is not None
    each = 3 * e.width + h
    if load.mode == "full":
        each += e.width + h  # weights that learn keep their inputs
    beside = 3 * e.shared + h if e.shared else 0  # its output too, which a gate multiplies
    return a * (e.active * each + beside) + 4.0 * e.count + 8.0 * 4 * e.active


def _inputs(shapes: Shapes, load: Workload, layer: Layer, learning: tuple[str, ...]) -> int:
    """Width of what the layers that learn keep of their inputs; attention keeps its output, o's input, by itself."""
    h = shapes.hidden
    if load.half and load.mode == "lora":  # PEFT casts to the adapter's fp32, autocast back: a copy each
        return sum(layer.linears[name][1] for name in learning)
    ends = ("o_proj", "out_proj", "down_proj")
    middle = {n for n in learning if "gate" in n or "up_proj" in n}
    before = {n for n in learning if not n.endswith(ends)} - middle
    shared = (
        not load.half or load.weight_bytes == load.activation_bytes
    )  # else autocast makes a copy for each
    wide = sum(layer.linears[n][1] for n in learning if n.endswith(("out_proj", "down_proj")))
    return h * ((bool(before) + bool(middle)) if shared else len(before) + len(middle)) + wide


def _moments(shapes: Shapes, load: Workload, gradients: float) -> list[_Moment]:
    h, n = shapes.hidden, load.tokens
    full, layers, stream = load.mode == "full", shapes.layers, load.weight_bytes
    before = gradients if load.accumulation > 1 else 0.0  # of the passes before
    sorts = [(sort.count, layer_bytes(shapes, load, sort) * n) for sort in shapes.sorts_of_layers]
    layer, everything = max(b for _, b in sorts), sum(count * b for count, b in sorts)
    # ids, positions of labels, targets and pieces are int64; cosines and sines fp32
    always = 8.0 * 4 * n + 8 * load.length * shapes.head_dim
    copies = _autocast_copies(shapes, load)
    kept = stream * h * n * layers if load.checkpointing else everything + copies
    if not full and not load.checkpointing:
        kept -= 4 * (h + 1) * n  # frozen embeddings need no gradient: the first norm keeps nothing
    final = (4 * h + 4 + (stream * h if full else 0)) * n
    head_gradient = 4.0 * shapes.vocabulary * h if full else 0.0
    loss_kept, loss_peak = _loss_bytes(shapes, load)
    at_loss = kept + always + final + (copies if load.checkpointing else 0)
    passing = _mlp_bytes(shapes, load)
    # what the norm of a recomputed layer keeps is the input that was kept already, unless it had to be cast
    again = layer + copies / layers - (4 * h * n if stream == 4 else 0) if load.checkpointing else 0.0
    return [
        _Moment("loss", before, at_loss + loss_kept, loss_peak + head_gradient),
        _Moment("last layer", before, kept + always + again + passing, head_gradient),
        _Moment(
            "backward, first layer",
            gradients - (0 if before else _unmade(shapes, load)),
            always + passing + (again + stream * h * n if load.checkpointing else layer + copies / layers),
        ),
        _Moment("update", gradients, _update_bytes(shapes, load)),
    ]


def _autocast_copies(shapes: Shapes, load: Workload) -> float:
    """16-bit copies of fp32 weights that learn; autocast keeps them until the backward pass is done with them."""
    if not load.half or (load.mode == "full" and load.weight_bytes == 2):
        return 0.0
    if load.offload:
        return 2.0 * shapes.linear_parameters / shapes.layers
    return 2.0 * (shapes.linear_parameters if load.mode == "full" else trainable_parameters(shapes, load))


def _mlp_bytes(shapes: Shapes, load: Workload) -> float:
    """What is alive beside the kept activations while an MLP is passed, where most is: backward, or in its last layer."""
    h, a, n = shapes.hidden, load.activation_bytes, load.tokens
    e, full, stream = shapes.experts, load.mode == "full", load.weight_bytes
    m = max(shapes.intermediate, e.active * e.width) if e else shapes.intermediate
    learns_down = full or any("down_proj" in sort.targets(load.targets) for sort in shapes.sorts_of_layers)
    # gradients of product, gate and up, after the product itself went where it was kept; and the stream's own
    backward = float((2 if learns_down else 3) * m * a + stream * h) * n
    if load.quantization != "none":
        backward = max(backward, float(2 * a * m * n + 2 * m * h))  # beside a weight as it is in 16 bits
    if full or not load.half or not learns_down:
        return backward
    # the product and PEFT's fp32 copy of it; base output, LoRA's output, normed input, residual, the layer's input, and
    # going forward the embeddings and LoRA's scaled output too
    return max(backward, float((a + 4) * m + (5 if load.checkpointing else 7) * a * h) * n)


def _unmade(shapes: Shapes, load: Workload) -> float:
    """Gradients that come only after the MLP of the first layer was passed back."""
    e = shapes.experts
    down = (e.count * e.width if e else shapes.intermediate) * shapes.hidden
    if load.mode == "full":
        embedding = 0 if shapes.tied else shapes.vocabulary * shapes.hidden
        return load.weight_bytes * (shapes.layer_parameters - down + embedding)
    return 4.0 * trainable_parameters(shapes, load) / shapes.layers


def _update_bytes(shapes: Shapes, load: Workload) -> float:
    """What the optimizer makes and drops within its step."""
    if load.optim == "adamw_torch" and load.device == "cuda":
        return 4.0 * trainable_parameters(shapes, load)  # roots of all second moments at a time
    return 0.0


def _loss_bytes(shapes: Shapes, load: Workload) -> tuple[float, float]:
    """(hidden states and their gradient, logits of a chunk and what is made of them) at the loss's own peak."""
    h, v, n, stream = shapes.hidden, shapes.vocabulary, load.tokens, load.weight_bytes
    if load.method in RL_METHODS:
        return (stream + 4.0) * h * n, _tile_bytes(shapes, load)
    chunk = min(load.loss_chunk or n, n)
    cast = 2.0 if stream == 2 else 0.0
    if load.method == "sft":
        # fp32 logits beside their exponentials; a cap keeps its slope besides
        peak = 4.0 * chunk * v * (3 if shapes.softcap else 2)
    else:
        # logits beside their softmax, and that in the format of the hidden states
        peak = chunk * v * (8.0 + cast + (4 if shapes.softcap else 0))
    if load.mode == "full":
        # the weight's gradient of a chunk, in 16 bits first; autocast keeps a copy of the weight
        halves = 2.0 if load.half else 0.0
        peak = max(peak, chunk * v * (4.0 + cast) + v * h * (4.0 + halves)) + (
            v * h * halves if stream == 4 else 0
        )
    return 2.0 * stream * h * n, peak


def _tile_bytes(shapes: Shapes, load: Workload) -> float:
    """A tile of logits as TRL's own loss makes one, whose buffer is as wide for any vocabulary.

    Its kernel for cards scores answers alone and works in the buffer; without a card prompts are scored too, in fp32.
    """
    a, card = load.activation_bytes, load.device == "cuda"
    scored = load.pieces * (load.completion if card else load.length + load.completion - 1)
    positions, words = min(scored, TRL_POSITIONS), min(shapes.vocabulary, TRL_CHUNK)
    cast = a * words * shapes.hidden if load.weight_bytes != a else 0
    held = a * positions * TRL_CHUNK + cast
    if card:
        return float(held)
    # scaled twice, their logarithms and those raised, the gradient, the target as bool and fp32, and their difference
    wide = 33 if shapes.softcap else 29
    return float(held + wide * positions * words)


def _moments_of_rl(shapes: Shapes, load: Workload, gradients: float) -> list[_Moment]:
    """GRPO and its kin by TRL: all answers of a step are drawn together, with a cache; then they are learnt by passes."""
    a, v = load.activation_bytes, shapes.vocabulary
    drawn = load.pieces * load.accumulation
    cache = 2.0 * a * shapes.keys * shapes.layers * drawn * (load.length + load.completion)
    learning = _moments(shapes, load, gradients)
    # the next token's logits in fp32, their softmax, and both sorted for top-p
    return [*learning, _Moment("generation", 0.0, cache, 4.0 * 3 * drawn * v)]
