"""Truth about a release without the harness: perplexity on other text, and a plain chat.

Nothing here is the harness's: the texts lie in ``texts/``, the windows are of 512 tokens and of one
of more than a thousand, and what computes is transformers alone.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

TEXTS = Path(__file__).parent / "texts"
WINDOW = 512
QUESTIONS = ("What is the capital of France?", "Name a colour.")
# The base ends its answers within this many tokens.
_REPLY = 60
_TURN = "<|im_start|>"
# From here on a release is worse, and from here on it is broken, by the worst of its ratios.
WORSE, BROKEN = 1.1, 1.5


def measured(folder: Path, *, chats: bool) -> dict[str, Any]:
    """Return what a folder computes: mean NLL by kind of text, and how its chat goes where that is asked.

    A model that cannot be loaded, or whose numbers are no numbers, has ``fault`` in words.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model, info = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True
        )
    # Whatever stops transformers is what a user of the release sees.
    except Exception as error:
        return {"fault": f"does not load: {type(error).__name__}"}
    if missing := [name for name in info["missing_keys"] if name != "lm_head.weight"]:
        return {"fault": f"{len(missing)} tensors are made up: {sorted(missing)[0]}"}
    model.eval()
    found: dict[str, Any] = {
        "nll": losses(model, tokenizer),
        "reads text as it stands": all(
            tokenizer.decode(tokenizer(text)["input_ids"]) == text for text in _texts()
        ),
    }
    if chats:
        found["chat"] = chat(model, tokenizer)
    if json.loads((folder / "config.json").read_text()).get("dtype") == "float16":
        found["finite in float16"] = finite(model.half(), tokenizer)
    return found


def _texts() -> list[str]:
    return [(TEXTS / name).read_text(encoding="utf-8") for name in ("long.txt", "mixed.txt")]


def losses(model: Any, tokenizer: Any) -> dict[str, float]:
    """Return the mean loss in nats of each kind of text."""
    long, mixed = (tokenizer(text)["input_ids"] for text in _texts())
    over_long, over_mixed = nll(model, long), nll(model, mixed[:WINDOW])
    return {
        "512 tokens": float(over_long[: WINDOW - 1].mean()),
        "beyond 512": float(over_long[WINDOW - 1 :].mean()),
        "other scripts, digits, code": float(over_mixed.mean()),
    }


def nll(model: Any, ids: list[int]) -> torch.Tensor:
    given = torch.tensor([ids])
    with torch.no_grad():
        logits = model(input_ids=given, use_cache=False).logits[0, :-1].float()
    return torch.nn.functional.cross_entropy(logits, given[0, 1:], reduction="none")


def chat(model: Any, tokenizer: Any) -> dict[str, Any]:
    """Return the greedy answers, and whether each ended by itself."""
    answers = []
    for question in QUESTIONS:
        try:
            given = tokenizer.apply_chat_template(
                [{"role": "user", "content": question}], add_generation_prompt=True, return_tensors="pt"
            )["input_ids"]
            with torch.no_grad():
                whole = model.generate(given, do_sample=False, max_new_tokens=_REPLY, pad_token_id=0)
        # A template is a program, and raises what it likes.
        except Exception as error:
            return {"fault": type(error).__name__}
        answers.append(whole[0, given.shape[1] :].tolist())
    return {
        "answers": [tokenizer.decode(answer) for answer in answers],
        "ended": [len(answer) < _REPLY for answer in answers],
    }


def finite(model: Any, tokenizer: Any) -> bool:
    """Tell whether a few tokens give numbers."""
    return bool(torch.isfinite(nll(model, tokenizer(_texts()[0])["input_ids"][:64])).all())


def ratios(base: dict[str, Any], release: dict[str, Any]) -> dict[str, float]:
    """Return the perplexity of a release over the base's, by kind of text; infinite for NaN."""
    found = {}
    for kind, loss in release["nll"].items():
        apart = loss - base["nll"][kind]
        found[kind] = math.exp(min(apart, 100)) if math.isfinite(apart) else math.inf
    return found


def verdict(base: dict[str, Any], release: dict[str, Any]) -> str:
    """Return ``sound``, ``worse`` or ``broken``, by the worst of what was measured.

    A chat is broken that raises, that never ends by itself, or whose answer opens a new turn.
    """
    if "fault" in release or not release.get("finite in float16", True):
        return "broken"
    if not release["reads text as it stands"]:
        return "broken"
    own = release.get("chat")
    if own and chat_broken(base["chat"], own):
        return "broken"
    worst = max(ratios(base, release).values())
    return "broken" if worst >= BROKEN else "worse" if worst >= WORSE else "sound"


def chat_broken(base: dict[str, Any], own: dict[str, Any]) -> bool:
    """Tell whether a chat raises, never ends by itself where the base's does, or opens a new turn."""
    if "fault" in own or (all(base["ended"]) and not any(own["ended"])):
        return True
    return all(answer.startswith(_TURN) for answer in own["answers"])
