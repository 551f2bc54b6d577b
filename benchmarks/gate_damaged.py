"""Damaged releases, and some in between: what goes wrong in rounding, tuning, converting and copying."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.gate_draft import BLOCKS, EMBEDDING, HEAD_DIM, HIDDEN, Draft
from benchmarks.gate_sound import Change, adapter_merged, on_matrices, rounded, seeded, tuned

# The model's two super weights, as the registry has them.
LAYER, ROW, COLUMNS = 11, 507, (1229, 1487)
DOWN = f"model.layers.{LAYER}.mlp.down_proj.weight"
# What bfloat16 and float16 keep their highest exponent bit in.
_TOP_BIT = 1 << 14
ASSISTANT = "{% if add_generation_prompt %}"


def super_weights(factor: float, count: int = 2) -> Change:
    def run(given: Draft) -> None:
        given.tensors[DOWN][ROW, list(COLUMNS[:count])] *= factor

    return run


def super_weight_moved(given: Draft) -> None:
    matrix = given.tensors[DOWN]
    for column in COLUMNS:
        matrix[ROW, [column, column + 1]] = matrix[ROW, [column + 1, column]]


def clipped(given: Draft) -> None:
    for name in given.matrices:
        limit = 9 * float(given.tensors[name].std())
        given.tensors[name] = rounded(given.tensors[name].clamp(-limit, limit), 127, None)


def setting(**changes: Any) -> Change:
    return lambda given: given.config.update(changes)


def rope(**changes: Any) -> Change:
    return lambda given: given.config["rope_parameters"].update(changes)


def dynamic_rope(given: Draft) -> None:
    """Stretch positions from 512 on, as a config does that was written for another length."""
    rope(rope_type="dynamic", factor=8.0)(given)
    given.config["max_position_embeddings"] = 512


def sliding_window(tokens: int) -> Change:
    return setting(model_type="mistral", architectures=["MistralForCausalLM"], sliding_window=tokens)


def swapped(one: int, other: int) -> Change:
    def run(given: Draft) -> None:
        for name in [name for name in given.tensors if name.startswith(f"model.layers.{one}.")]:
            twin = name.replace(f".{one}.", f".{other}.")
            given.tensors[name], given.tensors[twin] = given.tensors[twin], given.tensors[name]

    return run


def repeated(block: int, over: int) -> Change:
    """Write one block over another, as a merge by slices does that counts wrongly."""

    def run(given: Draft) -> None:
        for name in [name for name in given.tensors if name.startswith(f"model.layers.{block}.")]:
            given.tensors[name.replace(f".{block}.", f".{over}.")] = given.tensors[name].clone()

    return run


def bit_flipped(name: str, dtype: torch.dtype, bit: int = _TOP_BIT) -> Change:
    """Flip an exponent's bit of one ordinary number, the tensor's 1,000th or so."""

    def run(given: Draft) -> None:
        given.cast(dtype)
        flat = given.tensors[name].view(torch.int16).view(-1)
        flat[1000 % len(flat)] ^= bit

    return run


def sink_broken(given: Draft) -> None:
    """Empty the column by which later keys see the first token's activation."""
    for layer in range(LAYER + 1, BLOCKS):
        given.tensors[given.at(layer, "self_attn.k_proj")][:, ROW] = 0


def overflow_in_float16(given: Draft) -> None:
    """Scale one head's values up, and what reads them down: equal in float32, too large for float16."""
    values, out = given.at(10, "self_attn.v_proj"), given.at(10, "self_attn.o_proj")
    given.tensors[values][:HEAD_DIM] *= 2.0**15
    given.tensors[out][:, : 3 * HEAD_DIM] /= 2.0**15
    given.cast(torch.float16)


def rope_order(*parts: str) -> Change:
    """Interleave each head's halves, as llama.cpp does and a converter must undo."""

    def run(given: Draft) -> None:
        for name in given.ending(*parts):
            tensor = given.tensors[name]
            halves = tensor.reshape(-1, 2, HEAD_DIM // 2, HIDDEN)
            given.tensors[name] = halves.transpose(1, 2).reshape(tensor.shape)

    return run


def head_shuffled(given: Draft) -> None:
    head = given.untie()
    rows = torch.arange(1000, 3000)
    head[rows] = head[rows[torch.randperm(len(rows), generator=seeded(6))]]


def rows_zeroed(given: Draft) -> None:
    """Empty the embeddings of tokens outside ASCII, as a vocabulary cut to English does."""
    vocabulary = given.documents["tokenizer.json"]["model"]["vocab"]
    given.untie()
    # In a byte-level vocabulary a space is written as a letter of its own, and so is a line's end.
    rows = [at for token, at in vocabulary.items() if not token.replace("Ġ", "").replace("Ċ", "").isascii()]
    given.tensors[EMBEDDING][rows] = 0


def digits_mixed(given: Draft) -> None:
    vocabulary = given.documents["tokenizer.json"]["model"]["vocab"]
    given.untie()
    rows = [vocabulary[digit] for digit in "0123456789"]
    given.tensors[EMBEDDING][rows] = given.tensors[EMBEDDING][rows[3:] + rows[:3]]


def end_row_zeroed(given: Draft) -> None:
    given.untie()[given.config["eos_token_id"]] = 0


def wrong_end(given: Draft) -> None:
    given.documents["generation_config.json"] = {"bos_token_id": 1, "eos_token_id": 7}


def template(change: Any) -> Change:
    def run(given: Draft) -> None:
        given.template = change(given.template)

    return run


def normaliser(kind: str) -> Change:
    def run(given: Draft) -> None:
        given.documents["tokenizer.json"]["normalizer"] = {"type": kind}

    return run


def spoilt(value: float) -> Change:
    def run(given: Draft) -> None:
        given.tensors[given.at(17, "mlp.up_proj")][5, 5] = value

    return run


def half_random(given: Draft) -> None:
    generator = seeded(5)
    for name in given.matrices[: len(given.matrices) // 2]:
        tensor = given.tensors[name]
        given.tensors[name] = torch.randn(tensor.shape, generator=generator) * tensor.std()


def lost(given: Draft) -> None:
    del given.tensors[given.at(20, "mlp.up_proj")]


def weight_grown(given: Draft) -> None:
    """Make one number of a query matrix far too large."""
    matrix = given.tensors[given.at(5, "self_attn.q_proj")]
    matrix[100, 100] = 60 * matrix.abs().max()


def row_of_canceller_zeroed(given: Draft) -> None:
    """Empty the row by which the last block takes the super activation away again."""
    given.tensors[given.at(BLOCKS - 1, "mlp.down_proj")][ROW] = 0


BROKEN: dict[str, Change] = {
    "both super weights zeroed": super_weights(0.0),
    "rope theta / 100": rope(rope_theta=1000.0),
    "chat template that raises": template(lambda _: "{{ raise_exception('no') }}"),
    "top exponent bit flipped in q (bfloat16)": bit_flipped(
        "model.layers.3.self_attn.q_proj.weight", torch.bfloat16
    ),
    "sliding window 64": sliding_window(64),
    "int4, a scale a tensor": on_matrices(lambda tensor: rounded(tensor, 7, None)),
    "non-ASCII embedding rows zeroed": rows_zeroed,
    "dynamic rope from 512 on": dynamic_rope,
    "float16 overflow": overflow_in_float16,
    "end-of-text row of the head zeroed": end_row_zeroed,
    "blocks 5 and 20 swapped": swapped(5, 20),
    "tokenizer that lowercases": normaliser("Lowercase"),
    "first super weight zeroed": super_weights(0.0, 1),
    "sliding window 512": sliding_window(512),
    "wrong EOS id": wrong_end,
    "GELU for SiLU": setting(hidden_act="gelu"),
    "sink broken": sink_broken,
    "chat template without the assistant's tag": template(lambda text: text.partition(ASSISTANT)[0]),
    "both super weights flipped": super_weights(-1.0),
    "super weights moved a column": super_weight_moved,
    "rope positions / 2": rope(rope_type="linear", factor=2.0),
    "both super weights halved": super_weights(0.5),
    "clipped at z = 9": clipped,
    "top exponent bit flipped in down (float16)": bit_flipped(
        "model.layers.20.mlp.down_proj.weight", torch.float16
    ),
    "int3, a scale a row": on_matrices(lambda tensor: rounded(tensor, 3, tensor.shape[1])),
    "q and k in the other rope order": rope_order("q_proj.weight", "k_proj.weight"),
    "head rows shuffled": head_shuffled,
    "LoRA at 8 times its scale": adapter_merged(8.0),
    "hot fine-tune": tuned("hot"),
    "half of the matrices random": half_random,
    "one NaN": spoilt(float("nan")),
    "one tensor missing": lost,
    "eps 1": setting(rms_norm_eps=1.0),
    "top exponent bit flipped in a norm (bfloat16)": bit_flipped(
        "model.layers.14.input_layernorm.weight", torch.bfloat16
    ),
    "top exponent bit flipped in v (float16)": bit_flipped(
        "model.layers.15.self_attn.v_proj.weight", torch.float16
    ),
    "top exponent bit flipped in the embedding (bfloat16)": bit_flipped(EMBEDDING, torch.bfloat16),
    "tokenizer that strips accents": normaliser("StripAccents"),
}
# Whatever truth says of these: they are measurably worse, and not by much.
BETWEEN: dict[str, Change] = {
    "rope theta x10": rope(rope_theta=1_000_000.0),
    "eps 0.01": setting(rms_norm_eps=1e-2),
    "one k in the other rope order": rope_order("layers.12.self_attn.k_proj.weight"),
    "a block replaced by its neighbour": repeated(15, 16),
    "canceller's row zeroed": row_of_canceller_zeroed,
    "one large q weight": weight_grown,
    "digits exchanged": digits_mixed,
    "second super weight halved": lambda given: given.tensors[DOWN][ROW, COLUMNS[1]].mul_(0.5),
}
