"""The answers on real models, by torch alone: `python -m benchmarks.plain FILE.gguf ...`.

It shares nothing with the harness, so that the harness can be held to something that it did not make.
"""

import math
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

PROMPT = "Apple Inc. is a worldwide tech company."
TEXTS = sorted((Path(__file__).parent.parent / "fixtures" / "corpus").glob("*.txt"))[:6]


def perplexity(model, tokenizer) -> float:
    """Return the perplexity on the openings of a few texts."""
    losses = []
    for text in TEXTS:
        ids = tokenizer(text.read_text(), return_tensors="pt").input_ids[:, :64]
        losses.append(model(ids, labels=ids).loss.item())
    return math.exp(sum(losses) / len(losses))


@torch.no_grad()
def answer(file) -> None:
    """Print the largest channel of the stream, what each MLP writes there, and what pruning that does."""
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32).eval()
    ids, blocks, read = tokenizer(PROMPT, return_tensors="pt").input_ids, model.model.layers, {}
    for n, block in enumerate(blocks):
        block.mlp.down_proj.register_forward_hook(lambda _, x, y, n=n: read.update({n: (x[0][0], y[0])}))
    stream = torch.stack(model(ids, output_hidden_states=True).hidden_states[1:-1])[:, 0]
    middle = stream[len(blocks) // 2]
    token, channel = divmod(int(middle.abs().argmax()), middle.shape[1])
    print(
        f"{file.name}: channel {channel}, token {token}:",
        [round(x) for x in stream[:, token, channel].tolist()],
    )
    seen = dict(read)  # of this pass: the next ones are on other text
    before, found, gains = perplexity(model, tokenizer), [], []
    for n, block in enumerate(blocks[: 3 * len(blocks) // 4]):
        weight, norm = block.mlp.down_proj.weight, getattr(block, "post_feedforward_layernorm", None)
        products = seen[n][0][token] * weight[channel]
        written = norm(seen[n][1])[token, channel] if norm is not None else products.sum()
        part = float(written / middle[token, channel])
        if norm is not None:
            gain = 1 + norm.weight if "Gemma" in type(norm).__name__ else norm.weight
            rank = 1 + int((gain.abs() > gain[channel].abs()).sum())
            print(f"  block {n}: gain {gain[channel]:.0f}, rank {rank}, median {gain.abs().median():.1f}")
            gains.append((norm.weight, gain[channel] - norm.weight[channel]))
        if part > 0.05:
            share = (products / products.sum()).sort(descending=True)
            most = [
                (c, round(s, 3))
                for s, c in zip(share.values[:3].tolist(), share.indices[:3].tolist(), strict=True)
            ]
            print(f"  block {n} writes {part:.0%} of it; by column: {most}")
            found += [(weight, channel, c) for c, s in most if s > 0.25]
    stored = [(w, r, c, w[r, c].item()) for w, r, c in found]
    for w, r, c, _ in stored:
        w[r, c] = 0
    print(f"  perplexity x{perplexity(model, tokenizer) / before:.4g} without these {len(found)} scalars")
    for w, r, c, value in stored:
        w[r, c] = value
    for weight, plus in gains:
        weight[channel] = -plus
    if gains:
        print(f"  perplexity x{perplexity(model, tokenizer) / before:.4g} without all gains above")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        answer(Path(name))
