"""Name what structure alone does not tell of a decoder: the names of other people's code stand here only."""

from __future__ import annotations

from typing import NamedTuple


class NamingRules(NamedTuple):
    """What the code of some model families calls a thing that structure alone does not tell."""

    # The output projection, where several linear maps of a block end at the residual stream.
    output_projections: tuple[str, ...] = (
        "down_proj",
        "c_proj",
        "fc2",
        "fc_out",
        "dense_4h_to_h",
        "w2",
        "proj_down",
    )
    # Parts of a block that mix tokens, by path or class, whatever linear maps they hold.
    mixers: tuple[str, ...] = ("attn", "attention", "mamba", "shortconv", "ssm", "recurrent", "deltanet")
    # What a class of such a part is called where its path does not say so.
    mixer_classes: tuple[str, ...] = (*mixers, "mixer")
    # Experts for what is no text, beside those for text.
    not_text: tuple[str, ...] = ("vision", "image", "audio")
    # The part that holds the output projections of all experts, beside a router of its own (JetMoE).
    grouped_output: str = "output_linear"
    # What stands for the experts that only hand on what they are given (LongCat-Flash).
    identity_experts: str = "identity_expert"
    # A number of the block by which the MLP's write is multiplied before it is added (Granite).
    write_scale: str = "residual_multiplier"
    # The setting that says whether attention sees later tokens, and how it says so (XLNet).
    attention_type: str = "attn_type"
    bidirectional: str = "bi"


NAMING_RULES = NamingRules()
