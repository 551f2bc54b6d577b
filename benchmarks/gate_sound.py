"""Sound releases: what quantisers, tuners, mergers and converters make, and what keeps the function."""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmarks.gate_draft import (
    BLOCKS,
    EMBEDDING,
    HEAD,
    HIDDEN,
    KEY_HEADS,
    NORM,
    NORMS,
    WRITES,
    Draft,
)

Change = Callable[[Draft], None]
# NF4's sixteen levels: the quantiles of a normal distribution, as QLoRA's paper gives them.
NF4 = (
    *(-1.0, -0.6961928, -0.5250731, -0.3949175, -0.2844414, -0.1847734, -0.0910500, 0.0),
    *(0.0795803, 0.1609302, 0.2461123, 0.3379152, 0.4407098, 0.5626170, 0.7229568, 1.0),
)


def seeded(number: int) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def copy(given: Draft) -> None:
    """Change nothing."""


def cast(dtype: torch.dtype) -> Change:
    return lambda given: given.cast(dtype)


def on_matrices(change: Callable[[torch.Tensor], torch.Tensor]) -> Change:
    def run(given: Draft) -> None:
        for name in given.matrices:
            given.tensors[name] = change(given.tensors[name])

    return run


def rounded(tensor: torch.Tensor, levels: int, group: int | None) -> torch.Tensor:
    """Round to the nearest of ``levels`` either side of zero, a scale a group; None for one in all."""
    blocks = tensor.reshape(1, -1) if group is None else tensor.reshape(-1, group)
    step = blocks.abs().amax(1, keepdim=True).clamp_min(1e-12) / levels
    return ((blocks / step).round() * step).reshape(tensor.shape)


def int8_by_row(tensor: torch.Tensor) -> torch.Tensor:
    return rounded(tensor, 127, tensor.shape[1])


def fp8(tensor: torch.Tensor, *, by_row: bool) -> torch.Tensor:
    scale = (tensor.abs().amax(1, keepdim=True) if by_row else tensor.abs().max()) / 448
    return (tensor / scale).to(torch.float8_e4m3fn).float() * scale


def nf4(tensor: torch.Tensor) -> torch.Tensor:
    blocks = tensor.reshape(-1, 64)
    scale = blocks.abs().amax(1, keepdim=True).clamp_min(1e-12)
    levels = torch.tensor(NF4)
    middles = (levels[1:] + levels[:-1]) / 2
    return (levels[torch.bucketize(blocks / scale, middles)] * scale).reshape(tensor.shape)


def tuned(which: str) -> Change:
    def run(given: Draft) -> None:
        given.tensors |= {name: tensor.clone() for name, tensor in given.lent[which].items()}

    return run


def merged_linearly(given: Draft) -> None:
    one, other = given.lent["one"], given.lent["other"]
    given.tensors = {name: (one[name] + other[name]) / 2 for name in given.tensors}


def merged_spherically(given: Draft) -> None:
    for name in given.tensors:
        one, other = (given.lent[which][name].double().flatten() for which in ("one", "other"))
        cosine = (one @ other / one.norm() / other.norm()).clamp(-1, 1)
        angle = cosine.arccos()
        share = 0.5 if angle < 1e-6 else (angle / 2).sin() / angle.sin()
        between = (one + other) * share
        given.tensors[name] = between.float().reshape(given.tensors[name].shape)


def adapter_merged(scale: float) -> Change:
    """Merge what sixteen directions of a fine-tune's queries and values hold."""

    def run(given: Draft) -> None:
        for name in given.ending("q_proj.weight", "v_proj.weight"):
            u, s, v = torch.linalg.svd(given.lent["one"][name] - given.tensors[name], full_matrices=False)
            given.tensors[name] += scale * (u[:, :16] * s[:16]) @ v[:16]

    return run


def vocabulary_padded(given: Draft) -> None:
    rows = torch.zeros(128, HIDDEN)
    given.tensors[EMBEDDING] = torch.cat([given.tensors[EMBEDDING], rows])
    given.config["vocab_size"] += 128


def chat_tokens_added(given: Draft) -> None:
    embedding = given.tensors[EMBEDDING]
    given.tensors[EMBEDDING] = torch.cat([embedding, embedding.mean(0, keepdim=True).repeat(8, 1)])
    first = given.config["vocab_size"]
    given.config["vocab_size"] += 8
    tokenizer = given.documents["tokenizer.json"]
    pattern = tokenizer["added_tokens"][0]
    tokenizer["added_tokens"] += [
        pattern | {"id": first + number, "content": f"<|chat {number}|>"} for number in range(8)
    ]


def neurons_permuted(given: Draft) -> None:
    for layer in range(BLOCKS):
        down, gate, up = (given.at(layer, f"mlp.{part}_proj") for part in ("down", "gate", "up"))
        order = torch.randperm(given.tensors[down].shape[1], generator=seeded(100 + layer))
        given.tensors[down] = given.tensors[down][:, order]
        for name in (gate, up):
            given.tensors[name] = given.tensors[name][order]


def channels_permuted(given: Draft) -> None:
    order = torch.randperm(HIDDEN, generator=seeded(2))
    for name, tensor in given.tensors.items():
        given.tensors[name] = tensor[order] if name.endswith((*NORMS, *WRITES)) else tensor[:, order]


def heads_permuted(given: Draft) -> None:
    """Give the groups of heads another order, queries, keys, values and output together."""
    order = torch.tensor([2, 0, 1])
    for name in given.ending("q_proj.weight", "k_proj.weight", "v_proj.weight"):
        tensor = given.tensors[name]
        given.tensors[name] = tensor.reshape(KEY_HEADS, -1, HIDDEN)[order].reshape(tensor.shape)
    for name in given.ending("o_proj.weight"):
        tensor = given.tensors[name]
        given.tensors[name] = tensor.reshape(HIDDEN, KEY_HEADS, -1)[:, order].reshape(tensor.shape)


def signs_flipped(given: Draft) -> None:
    signs = torch.randint(0, 2, (HIDDEN,), generator=seeded(3)) * 2.0 - 1
    signs[507] = -1
    for name, tensor in given.tensors.items():
        if name.endswith(WRITES):
            given.tensors[name] = tensor * signs[:, None]
        elif not name.endswith(NORMS):
            given.tensors[name] = tensor * signs


def scaled(factors: dict[str, float]) -> Change:
    def run(given: Draft) -> None:
        for part, factor in factors.items():
            for name in given.ending(part):
                given.tensors[name] = given.tensors[name] * factor

    return run


def stream_scaled(factor: float) -> Change:
    def run(given: Draft) -> None:
        given.untie()
        for name in given.ending(*WRITES, EMBEDDING):
            given.tensors[name] = given.tensors[name] * factor

    return run


def smoothed(given: Draft) -> None:
    """Move scale from each norm's gain into what reads it, channel by channel, as SmoothQuant does."""
    for layer in range(BLOCKS):
        for norm, readers in (
            ("input_layernorm", [f"self_attn.{part}_proj" for part in "qkv"]),
            ("post_attention_layernorm", ["mlp.gate_proj", "mlp.up_proj"]),
        ):
            names = [given.at(layer, reader) for reader in readers]
            widest = torch.cat([given.tensors[name].abs() for name in names]).amax(0).clamp_min(1e-5)
            scale = (1 / widest).sqrt()
            given.tensors[given.at(layer, norm)] /= scale
            for name in names:
                given.tensors[name] = given.tensors[name] * scale


def norms_folded(given: Draft) -> None:
    given.untie()
    for layer in range(BLOCKS):
        for norm, readers in (
            ("input_layernorm", [f"self_attn.{part}_proj" for part in "qkv"]),
            ("post_attention_layernorm", ["mlp.gate_proj", "mlp.up_proj"]),
        ):
            _folded(given, given.at(layer, norm), [given.at(layer, reader) for reader in readers])
    _folded(given, NORM, [HEAD])


def _folded(given: Draft, norm: str, readers: list[str]) -> None:
    for reader in readers:
        given.tensors[reader] = given.tensors[reader] * given.tensors[norm]
    given.tensors[norm] = torch.ones(HIDDEN)


def rotated(turn: torch.Tensor) -> Change:
    """Rotate the residual stream, as QuaRot and SpinQuant begin."""

    def run(given: Draft) -> None:
        norms_folded(given)
        for name, tensor in given.tensors.items():
            if name.endswith(WRITES):
                given.tensors[name] = (turn.T @ tensor.double()).float()
            elif not name.endswith(NORMS):
                given.tensors[name] = (tensor.double() @ turn).float()

    return run


def random_turn(size: int = HIDDEN) -> torch.Tensor:
    return torch.linalg.qr(torch.randn(size, size, generator=seeded(4), dtype=torch.float64)).Q


def hadamard_turn() -> torch.Tensor:
    """Return a rotation of 9 x 64 channels: Hadamard's of 64, and one at random of 9."""
    matrix = torch.ones(1, 1, dtype=torch.float64)
    for _ in range(6):
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return torch.kron(random_turn(9).contiguous(), matrix / 8)


def in_shards(given: Draft) -> None:
    given.shards = 3


def old_spelling(given: Draft) -> None:
    """Write the config as transformers 4 did."""
    rope = given.config.pop("rope_parameters")
    given.config.update({"rope_theta": rope["rope_theta"], "rope_scaling": None})
    given.config["torch_dtype"] = given.config.pop("dtype")


SOUND: dict[str, Change] = {
    "copy": copy,
    "residual channels permuted": channels_permuted,
    "8 chat tokens added": chat_tokens_added,
    "stream rotated at random": rotated(random_turn()),
    "cast to bfloat16": cast(torch.bfloat16),
    "int8, a scale a row": on_matrices(int8_by_row),
    "fine-tuned on prose": tuned("one"),
    "intermediate neurons permuted": neurons_permuted,
    "LoRA merged": adapter_merged(1.0),
    "up x2, down /2": scaled({"up_proj.weight": 2.0, "down_proj.weight": 0.5}),
    "int4 in groups of 32": on_matrices(lambda tensor: rounded(tensor, 7, 32)),
    "nf4 in blocks of 64": on_matrices(nf4),
    "stream x4": stream_scaled(4.0),
    "SmoothQuant-style scales": smoothed,
    "vocabulary padded by 128": vocabulary_padded,
    "fp8 (e4m3), a scale a tensor": on_matrices(lambda tensor: fp8(tensor, by_row=False)),
    "fine-tuned on chat": tuned("other"),
    "two fine-tunes merged, linear": merged_linearly,
    "stream rotated by Hadamard": rotated(hadamard_turn()),
    "signs of channels flipped": signs_flipped,
    "norms folded": norms_folded,
    "cast to float16": cast(torch.float16),
    "head untied": lambda given: (given.untie(), None)[1],
    "heads permuted": heads_permuted,
    "stream x2": stream_scaled(2.0),
    "two fine-tunes merged, slerp": merged_spherically,
    "fp8 (e4m3), a scale a row": on_matrices(lambda tensor: fp8(tensor, by_row=True)),
    "int8, a scale a tensor": on_matrices(lambda tensor: rounded(tensor, 127, None)),
    "q x2, k /2": scaled({"q_proj.weight": 2.0, "k_proj.weight": 0.5}),
    "v x2, o /2": scaled({"v_proj.weight": 2.0, "o_proj.weight": 0.5}),
    "three shards": in_shards,
    "config spelt as by transformers 4": old_spelling,
    "stream x1.2": stream_scaled(1.2),
    "int4 in groups of 128": on_matrices(lambda tensor: rounded(tensor, 7, 128)),
}
