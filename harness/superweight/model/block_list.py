"""Find the list of modules that is a decoder's blocks: the one nearest to the token embedding."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from superweight.model.naming_rules import NAMING_RULES


def depth_and_width(model: PreTrainedModel) -> tuple[int | None, int | None]:
    """Return how many blocks and channels the config names, that of the innermost part if need be."""
    inner = [part for part in _holding(model) if isinstance(part, PreTrainedModel)]
    said = (told_by(config) for config in (model.config, *(part.config for part in inner)))
    return next((found for found in said if found is not None), (None, None))


def told_by(config: PreTrainedConfig) -> tuple[int, int] | None:
    """Return how many blocks and channels a config names of its decoder, or None."""
    text = config.get_text_config()
    count, hidden = (getattr(text, name, None) for name in ("num_hidden_layers", "hidden_size"))
    return (count, hidden) if isinstance(count, int) and isinstance(hidden, int) else None


def _holding(model: PreTrainedModel) -> list[nn.Module]:
    """Return the parts of a model that hold its token embedding, the smallest first; none without one."""
    embedding = token_embedding(model)
    holding = [part for part in model.modules() if any(inner is embedding for inner in part.modules())]
    return sorted(holding, key=lambda part: len(list(part.modules())))


def token_embedding(model: PreTrainedModel) -> nn.Module | None:
    """Return the module that turns token ids into vectors, or None."""
    try:
        embedding: nn.Module = model.get_input_embeddings()
    except NotImplementedError:  # the class does not say which: the one for text, if there is one
        words = getattr(model.config.get_text_config(), "vocab_size", None)
        tables = [part for part in model.modules() if isinstance(part, nn.Embedding)]
        return next((table for table in tables if table.num_embeddings == words), None)
    return embedding


def sees_later_tokens(model: PreTrainedModel, blocks: nn.ModuleList) -> bool:
    if getattr(model.config, NAMING_RULES.attention_type, None) == NAMING_RULES.bidirectional:
        return True
    said = [
        (getattr(module, "is_decoder", None), getattr(module, "is_causal", None))
        for path, module in blocks.named_modules()
        if not _is_cross_attention(path)  # that of a decoder reads an encoder, which is not run
    ]
    return any(decoder is False or (causal is False and not decoder) for decoder, causal in said)


def _is_cross_attention(path: str) -> bool:
    return any(
        name in path.lower() for name in ("encoder_attn", "crossattention", "encdecattention", "cross_attn")
    )


def block_list(model: PreTrainedModel, count: int) -> nn.ModuleList | None:
    """Return the one list of ``count`` modules in the smallest part that also holds the embedding.

    A vision tower may be as deep as the decoder beside it, but has no token embedding. Where no list is
    as long as the config says (it may count an encoder's blocks, or those of a block twice), the one list
    that lies in no other is meant.
    """
    beside_encoder = bool(getattr(model.config, "is_encoder_decoder", False))
    for part in _holding(model):
        lists = _outermost_lists(part, count)
        if beside_encoder:
            lists = [item for item in lists if _reads_an_encoder(item)]
        matching = [item for item in lists if len(item) == count] or lists
        if len(matching) > 1:  # an encoder's beside a decoder's
            matching = [item for item in matching if _reads_an_encoder(item)] or matching
        if matching:
            return matching[0] if len(matching) == 1 else None
    return None


def no_one_list(model: PreTrainedModel, count: int) -> str:
    """Say why no one list of modules is the decoder's blocks."""
    lists = named_lists(model, count)
    found = listed(lists)
    looked = f"looked for one list of {count} blocks near the token embedding; found"
    if len(lists) < 2:
        return f"{looked} {found or 'none'}"
    if count > sum(lists.values()):
        return f"{looked} {found}: {sum(lists.values())} blocks, so they run several times (it is looped)"
    if bool(getattr(model.config, "is_encoder_decoder", False)):
        return f"{looked} {found}, none of which has attention of its own to what an encoder read"
    if len({path.rpartition(".")[0] for path in lists}) == 1 and set(lists.values()) == {count}:
        return f"{looked} {found}: the parts of a block lie in lists of their own, and no module is a block"
    return f"{looked} {found}, and which of them is the decoder is not told"


def named_lists(model: PreTrainedModel, count: int) -> dict[str, int]:
    """Return the lists of modules in a model that lie in no other list, and how long they are."""
    names = {id(item): path for path, item in model.named_modules()}
    return {names[id(item)]: len(item) for item in _outermost_lists(model, count)}


def listed(lists: dict[str, int]) -> str:
    return ", ".join(f"{path} ({length})" for path, length in lists.items())


def _reads_an_encoder(blocks: nn.ModuleList) -> bool:
    return any(_is_cross_attention(path) for path, _ in blocks.named_modules())


def _outermost_lists(part: nn.Module, count: int) -> list[nn.ModuleList]:
    """Return the lists of several modules that lie in no other list; of one, where ``count`` is one."""
    found: dict[str, nn.ModuleList] = {}
    for path, item in part.named_modules():
        inner = any(path.startswith(f"{other}.") for other in found)
        if isinstance(item, nn.ModuleList) and len(item) >= min(2, count) and not inner:
            found[path] = item
    return list(found.values())
