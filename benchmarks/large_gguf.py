"""Write a GGUF file of a 7B model's shapes, to be scanned within the memory of a small machine.

    python -m benchmarks.large_gguf seven.gguf

The shapes are Llama-2-7B's, the types those of Q4_K_M, the tokenizer and the vocabulary those of
SmolLM2-135M. The numbers are random; every block has the bytes of the first, so that they are rounded once.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import gguf
import numpy as np

from benchmarks.engine_files import quantised, type_of
from superweight.checkpoints.model_ref import parse_model
from superweight.checkpoints.sources import fetch

BLOCKS, WIDTH, INNER, HEADS, SCALE = 32, 4096, 11008, 32, 0.02
SHAPES = {
    **dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_output"), (WIDTH, WIDTH)),
    **dict.fromkeys(("ffn_gate", "ffn_up"), (INNER, WIDTH)),
    "ffn_down": (WIDTH, INNER),
    **dict.fromkeys(("attn_norm", "ffn_norm"), (WIDTH,)),
}
TOKENIZER_OF = "smollm2-135m-instruct-q4_1"


def write(target: Path) -> None:
    """Write the file; one block and the embedding are in memory at once."""
    writer = gguf.GGUFWriter(target, "llama")
    reader = gguf.GGUFReader(fetch(parse_model(TOKENIZER_OF).entry).path)
    for field in reader.fields.values():
        if field.name.startswith("tokenizer."):
            array = field.types[0] == gguf.GGUFValueType.ARRAY
            writer.add_key_value(
                field.name, field.contents(), field.types[0], sub_type=field.types[-1] if array else None
            )
    writer.add_block_count(BLOCKS)
    writer.add_context_length(4096)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_K_M)
    vocabulary = len(reader.get_field("tokenizer.ggml.tokens").data)
    chance = np.random.default_rng(0)
    known: dict[tuple[str, str], np.ndarray] = {}

    def add(name: str, shape: tuple[int, ...]) -> None:
        kind = type_of(name, shape, "Q4_K_M", BLOCKS)
        key = (name.split(".")[-2], kind)
        if key not in known:
            numbers = chance.standard_normal(shape, np.float32) * SCALE if len(shape) > 1 else np.ones(shape)
            known[key] = quantised(numbers.astype(np.float32), gguf.GGMLQuantizationType[kind])
        writer.add_tensor(name, known[key], raw_dtype=gguf.GGMLQuantizationType[kind])

    add("token_embd.weight", (vocabulary, WIDTH))
    for layer in range(BLOCKS):
        for name, shape in SHAPES.items():
            add(f"blk.{layer}.{name}.weight", shape)
    add("output_norm.weight", (WIDTH,))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("target", type=Path, help="The file to write, about 4 GB.")
    write(parser.parse_args().target)


if __name__ == "__main__":
    main()
