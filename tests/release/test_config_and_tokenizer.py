"""What a config computes and what a tokenizer reads: spelling is free, a difference is named damage."""

from __future__ import annotations

import json

import pytest

from superweight.checkpoints.registry import resolve
from superweight.checkpoints.tensors.open import open_checkpoint
from superweight.release.config_checks import (
    _acts_beyond,
    _same,
    _shown,
    compare_configs,
    compare_settings,
    settings,
)
from superweight.release.tokenizer_checks import _files, _rendered, compare_tokenizers

from .releases import make, unchanged

CHAT = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.fixture(scope="module")
def planted_files():
    entry = resolve("tiny-planted")
    return entry.root / entry.source


@pytest.fixture
def base(planted_files, tmp_path):
    """The tiny model with a chat template and an end of text."""
    path = make(planted_files, tmp_path / "base", unchanged, [])
    edit(path, "tokenizer_config.json", chat_template=CHAT, eos_token="<s>")  # noqa: S106
    edit(path, "generation_config.json", eos_token_id=256)
    return path


@pytest.fixture
def release(base, tmp_path):
    return make(base, tmp_path / "release", unchanged, [])


def edit(folder, name, **changes):
    document = json.loads((folder / name).read_text()) | changes
    (folder / name).write_text(
        json.dumps({key: value for key, value in document.items() if value is not Ellipsis})
    )


def configs(base, release):
    return {check.name: check for check in compare_configs(open_checkpoint(base), open_checkpoint(release))}


def tokenizers(base, release):
    return {
        check.name: check for check in compare_tokenizers(open_checkpoint(base), open_checkpoint(release))
    }


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"rope_parameters": {"rope_theta": 100000.0, "rope_type": "default"}},
            "rope_theta 10000.0 became 100000.0",
        ),
        # What it says of itself is next to what is meant where it says nothing, and is not that.
        ({"rope_parameters": {"rope_theta": 10001.0}}, "rope_theta 10000.0 became 10001.0"),
        (
            {"rope_parameters": {"rope_theta": 10000.0, "rope_type": "linear", "factor": 2.0}},
            "factor (not set) became 2.0, rope_type",
        ),
        ({"rms_norm_eps": 1e-2}, "rms_norm_eps 1e-06 became 0.01"),
        ({"hidden_act": "gelu"}, 'hidden_act "silu" became "gelu"'),
        ({"sliding_window": 64}, "sliding_window (not set) became 64"),
        ({"num_attention_heads": 2, "head_dim": 32}, "head_dim 16 became 32"),
    ],
)
def test_what_decides_what_is_computed_is_named(change, words, base, release):
    """One setting that differs is damage, from what to what."""
    edit(release, "config.json", **change)
    check = configs(base, release)["config"]
    assert "damaged" == check.status
    assert check.reason.startswith(f"config.json: {words}")


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": "float16"},
        {"dtype": ..., "torch_dtype": "bfloat16"},
        {"rope_parameters": ..., "rope_theta": 10000.0, "rope_scaling": None},
        {"rope_parameters": ...},
        {"head_dim": ..., "num_key_value_heads": ...},
        {"rms_norm_eps": ...},
        {"hidden_act": "swish"},
        {"use_sliding_window": False, "sliding_window": 4096},
        {"transformers_version": "4.40.0", "vocab_size": 264},
        {"quantization_config": {"quant_method": "fp8"}},
    ],
)
def test_another_spelling_is_kept(change, base, release):
    """Old names, defaults left out, and what bears on storage alone decide nothing."""
    edit(release, "config.json", **change)
    assert "kept" == configs(base, release)["config"].status


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dtype": "float16"}, 'dtype "bfloat16" became "float16"'),
        ({"vocab_size": 264}, "vocab_size 257 became 264"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings false became true"),
        ({"max_position_embeddings": 64}, "became 64"),
        ({"quantization_config": {"quant_method": "fp8"}}, "quantised by fp8"),
    ],
)
def test_what_decides_nothing_and_a_person_wants_to_know_is_told(change, words, base, release):
    """How numbers are stored, how many tokens there are, how much text is promised."""
    edit(release, "config.json", **change)
    check = configs(base, release)["config"]
    assert "kept" == check.status
    assert words in check.reason


def test_of_a_class_that_nobody_knows_the_file_alone_counts():
    """What it would fill in is not to be had, and that stops nothing."""
    stated = {"model_type": "no-such-model", "rms_norm_eps": 1e-5}
    check = compare_settings(stated, {"model_type": "no-such-model"})
    assert ("damaged", "config.json: rms_norm_eps 1e-05 became (not set)") == (check.status, check.reason)


def test_settings_are_those_of_the_text_model():
    """Of a model of several parts, the part that reads text counts."""
    outer = {"model_type": "x", "text_config": {"rms_norm_eps": 1e-5}}
    assert {"rms_norm_eps": 1e-5} == settings(outer)
    assert "kept" == compare_settings(outer, {"model_type": "x", "rms_norm_eps": 1e-5}).status


def test_a_wrong_end_of_text_is_damage_and_a_tuned_one_is_not(base, release):
    """An end that the tokenizer has none of is wrong; one that was added for chat is told."""
    edit(release, "generation_config.json", eos_token_id=7)
    check = configs(base, release)["end of text"]
    assert "damaged" == check.status
    assert (
        "generation ends at token 7 where the base's ends at 256, but its tokenizer's end of text is 256"
        == check.reason
    )
    edit(release, "generation_config.json", eos_token_id=[7, 256])
    more = configs(base, release)["end of text"]
    assert ("kept", 0.0) == (more.status, more.excess)


def test_the_same_tokenizer_is_kept(base, release):
    """Of a copy all four checks are kept."""
    found = tokenizers(base, release)
    assert {"tokenizer", "BOS", "rows of added tokens", "chat template"} == found.keys()
    assert {("kept", 0.0)} == {(check.status, check.excess) for check in found.values()}


@pytest.mark.parametrize("normaliser", ["Lowercase", "NFKC", "StripAccents"])
def test_another_normaliser_is_damage(normaliser, base, release):
    """What it changes is among the probes."""
    edit(release, "tokenizer.json", normalizer={"type": normaliser})
    check = tokenizers(base, release)["tokenizer"]
    assert "damaged" == check.status
    assert check.reason.endswith("its normalizer differs from the base's")


def test_a_tokenizer_that_drops_bos_says_bos(base, release):
    """The cause is named: by the post-processor, and by what tokenizer_config.json says."""
    edit(release, "tokenizer.json", post_processor=None)
    check = tokenizers(base, release)["BOS"]
    assert "damaged" == check.status
    assert "BOS is dropped: the base's tokenizer begins with <s>, the release's does not" == check.reason


def test_an_added_token_with_a_row_is_kept_and_without_one_is_damage(base, release):
    """Token 257 of an embedding of 257 rows has none."""
    document = json.loads((release / "tokenizer.json").read_text())
    token = document["added_tokens"][0] | {"id": 257, "content": "<|im_end|>"}
    edit(release, "tokenizer.json", added_tokens=[*document["added_tokens"], token])
    found = tokenizers(base, release)
    assert "kept" == found["tokenizer"].status
    assert "damaged" == found["rows of added tokens"].status
    assert found["rows of added tokens"].reason.endswith("of 257: <|im_end|>")


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ raise_exception('no') }}", "the chat template does not render: no"),
        ("{{ messages[9].content }}", "the chat template does not render: "),
        ("{% for m in messages %", "the chat template does not render: "),
        (CHAT.partition("{% if")[0], "the chat template lacks the assistant's tag"),
        ("{% if add_generation_prompt %}x{% endif %}", "the chat template leaves out what was said"),
        (..., "the base has a chat template and the release has none"),
    ],
)
def test_a_chat_template_that_does_not_work_is_damage(template, words, base, release):
    """It raises, is no template, lacks the assistant's tag, leaves text out, or is gone."""
    edit(release, "tokenizer_config.json", chat_template=template)
    check = tokenizers(base, release)["chat template"]
    assert "damaged" == check.status
    assert check.reason.startswith(words)


def test_a_tag_that_stands_for_another_is_one_as_well(base, release):
    """What the base ends with when nobody is asked may come later in the alphabet."""
    said = "{% for m in messages %}{{ m.content }}{% endfor %}"
    tag = "{% if add_generation_prompt %}A{% else %}B{% endif %}"
    edit(base, "tokenizer_config.json", chat_template=f"{said}{tag}")
    edit(release, "tokenizer_config.json", chat_template=f"{said}B")
    check = tokenizers(base, release)["chat template"]
    assert ("damaged", True) == (check.status, "lacks the assistant's tag" in check.reason)


def test_a_chat_template_is_given_no_way_out(base, release):
    """It comes from the release: what reaches for Python's own objects is refused."""
    edit(release, "tokenizer_config.json", chat_template="{{ messages.__class__.__mro__ }}")
    assert "damaged" == tokenizers(base, release)["chat template"].status


def test_a_template_in_a_file_of_its_own_counts(base, release):
    """transformers writes chat_template.jinja beside the tokenizer."""
    edit(release, "tokenizer_config.json", chat_template=...)
    (release / "chat_template.jinja").write_text(CHAT)
    assert "kept" == tokenizers(base, release)["chat template"].status


def front(*ids):
    """A post-processor that puts tokens in front."""
    names = {256: "<s>", 65: "b"}
    pieces = [{"SpecialToken": {"id": names[token], "type_id": 0}} for token in ids]
    return {
        "type": "TemplateProcessing",
        "single": [*pieces, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {
            names[token]: {"id": names[token], "ids": [token], "tokens": [names[token]]} for token in ids
        },
    }


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (front(256), front(65), "BOS differs: the base's tokenizer begins with <s>, the release's with b"),
        (
            front(256),
            front(256, 65),
            "BOS differs: the base's tokenizer begins with <s>, the release's with <s>, b",
        ),
        (None, front(256), "BOS differs: the base's tokenizer begins with nothing, the release's with <s>"),
        (front(65, 256), None, "BOS is dropped: the base's tokenizer begins with b, the release's does not"),
        (front(256), front(256), "text begins as the base's does"),
        (None, None, "text begins as the base's does"),
    ],
)
def test_what_stands_in_front_of_a_text_is_named_on_both_sides(before, after, words, base, release):
    """Another token, one more, one where there was none, or none where there was one."""
    edit(base, "tokenizer.json", post_processor=before)
    edit(release, "tokenizer.json", post_processor=after)
    check = tokenizers(base, release)["BOS"]
    status = "kept" if "as the base's" in words else "damaged"
    assert (words, status) == (check.reason, check.status)


def test_a_config_that_says_no_bos_drops_it(base, release):
    """tokenizer_config.json decides over the post-processor, on the side where it says so."""
    edit(release, "tokenizer_config.json", add_bos_token=False)
    assert "BOS is dropped" in tokenizers(base, release)["BOS"].reason
    edit(base, "tokenizer_config.json", add_bos_token=False)
    assert "kept" == tokenizers(base, release)["BOS"].status


def test_of_several_texts_that_are_read_otherwise_the_first_is_shown(base, release):
    """A person sees one, and which part of the file differs; what stands in front is then not asked."""
    edit(release, "tokenizer.json", normalizer={"type": "Lowercase"})
    found = tokenizers(base, release)
    assert "The Quick Brown Fox" in found["tokenizer"].reason
    assert "BOS" not in found


@pytest.mark.parametrize("content", ["{", '{"model": {"type": "Nonsense"}}'])
def test_a_tokenizer_that_cannot_be_made_is_damage(content, base, release):
    """No JSON, or none that the library makes a tokenizer of."""
    (release / "tokenizer.json").write_text(content)
    check = tokenizers(base, release)["tokenizer"]
    assert "damaged" == check.status
    assert check.reason.startswith("the release's tokenizer")


def test_a_row_beyond_the_first_that_is_missing_counts(base, release):
    """Every id from the number of rows on lacks one."""
    document = json.loads((release / "tokenizer.json").read_text())
    more = [document["added_tokens"][0] | {"id": 258 + at, "content": f"<{at}>"} for at in range(2)]
    edit(release, "tokenizer.json", added_tokens=[*document["added_tokens"], *more])
    assert tokenizers(base, release)["rows of added tokens"].reason.endswith("of 257: <0>, <1>")


@pytest.mark.parametrize(
    ("of_base", "status"),
    [
        (CHAT, "damaged"),
        (CHAT.partition("{% if")[0], "kept"),
        ("{{ raise_exception('no') }}", "kept"),
        (..., "kept"),
    ],
)
def test_an_assistant_s_tag_is_missed_only_where_the_base_has_one(of_base, status, base, release):
    """A base without a tag, without a template or with one that raises asks for nothing."""
    edit(base, "tokenizer_config.json", chat_template=of_base)
    edit(release, "tokenizer_config.json", chat_template=CHAT.partition("{% if")[0])
    assert status == tokenizers(base, release)["chat template"].status


def test_a_template_is_handed_what_templates_are_handed(base, release):
    """Special tokens as words, the date, JSON, ``break``, and lines without their blocks' line ends."""
    template = (
        "{{ bos_token }}|{{ strftime_now('%d') }}|{{ {'a': 1} | tojson }}|{{ pad_token }}"
        "{% for m in messages %}{{ m.content }}{% if loop.index > 9 %}{% break %}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}\n  {% if true %}\nassistant{% endif %}{% endif %}"
    )
    edit(release, "tokenizer_config.json", chat_template=template, bos_token={"content": "<s>"})
    files = _files(open_checkpoint(release))
    shown = '<s>|1 January 2025|{"a": 1}|What is two and two?Four.And three?'
    assert shown == _rendered(files, prompted=False)
    assert f"{shown}assistant" == _rendered(files, prompted=True).replace("\n", "")
    assert "kept" == tokenizers(base, release)["chat template"].status


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"hidden_act": "swish"}, {"hidden_act": "silu"}),
        ({"num_attention_heads": 4}, {"num_attention_heads": 4, "num_key_value_heads": 4}),
        (
            {"num_attention_heads": 4, "num_key_value_heads": 2},
            {"num_attention_heads": 4, "num_key_value_heads": 2},
        ),
        ({"num_key_value_heads": 2}, {"num_key_value_heads": 2}),
        (
            {"hidden_size": 64, "num_attention_heads": 4},
            {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 16},
        ),
        # A width that the heads do not divide, as transformers rounds it.
        (
            {"hidden_size": 66, "num_attention_heads": 4},
            {"hidden_size": 66, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 16},
        ),
        ({"hidden_size": 64}, {"hidden_size": 64}),
        ({"use_sliding_window": False, "sliding_window": 64, "max_window_layers": 3}, {}),
        (
            {"use_sliding_window": True, "sliding_window": 64},
            {"use_sliding_window": True, "sliding_window": 64},
        ),
        ({"rope_theta": 5.0}, {"rope_theta": 5.0, "rope_type": "default"}),
        ({"rope_scaling": None}, {"rope_type": "default"}),
        ({"rope_theta": None}, {}),
        (
            {"rope_theta": 5.0, "rope_scaling": {"type": "linear", "factor": 2.0}},
            {"rope_theta": 5.0, "rope_type": "linear", "factor": 2.0},
        ),
        (
            {"rope_parameters": {"rope_theta": 7.0}, "rope_theta": 5.0},
            {"rope_theta": 7.0, "rope_type": "default"},
        ),
        (
            {"rope_parameters": {"full": {"rope_theta": 7.0, "factor": None}}},
            {"rope.full.rope_theta": 7.0, "rope_type": "default"},
        ),
        ({"text_config": {"rms_norm_eps": 1e-5}, "rms_norm_eps": 1e-6}, {"rms_norm_eps": 1e-5}),
    ],
)
def test_settings_are_what_decides_whichever_way_it_is_written(config, expected):
    """Heads, widths, windows and ropes, with what follows from what is stated."""
    assert expected == settings(config)


@pytest.mark.parametrize(
    ("base_ends", "ends", "status"),
    [
        (256, 256, None),
        (256, [256, 7], "kept"),
        (256, [7], "damaged"),
        ([256, 7], [7, 9], "damaged"),
        ([7], [7, 9], "kept"),
        (None, [7], "damaged"),
        (256, None, None),
    ],
)
def test_what_ends_a_text_is_told_and_is_damage_without_the_tokenizer_s_own_end(
    base_ends, ends, status, base, release
):
    """More ends than the base has are a release's own matter; other ones leave it writing on."""
    edit(base, "generation_config.json", eos_token_id=base_ends)
    edit(release, "generation_config.json", eos_token_id=ends)
    edit(base, "config.json", eos_token_id=None)
    edit(release, "config.json", eos_token_id=None)
    edit(release, "tokenizer_config.json", eos_token="<s>")  # noqa: S106
    check = configs(base, release).get("end of text")
    assert status == (check and check.status)


def test_a_long_setting_is_shown_in_forty_characters(base, release):
    """The beginning, and that there is more."""
    edit(release, "config.json", layer_types=["full_attention"] * 9)
    (shown,) = [word for word in [configs(base, release)["config"].reason] if "became" in word]
    assert shown.endswith("...")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [(1, 1.0, True), (1e-5, 1.00000001e-5, True), (1, 2, False), ("a", "a", True), ("a", 1, False)],
)
def test_numbers_are_the_same_by_value_and_words_by_their_letters(one, other, same):
    """A number in 32 bits is written with more digits than it has."""
    assert (same, same) == (_same(one, other), _same(other, one))


def test_forty_characters_of_a_setting_are_shown():
    """One more, and its end is left out."""
    assert ('"' + "a" * 38 + '"', '"' + "a" * 36 + "...") == (_shown("a" * 38), _shown("a" * 39))
    assert "(not set)" == _shown(None)


@pytest.mark.parametrize(
    ("kind", "stretched", "promised", "unseen"),
    [
        ("dynamic", 1024, 2048, True),
        ("dynamic", 1023, 2048, False),
        ("dynamic", 2048, 2048, False),
        ("dynamic", None, 2048, False),
        ("dynamic", 1024, None, False),
        ("linear", 1024, 2048, False),
        ("yarn", 1024, 2048, False),
    ],
)
def test_positions_that_are_stretched_later_are_not_seen_by_what_is_read(kind, stretched, promised, unseen):
    """From 1,024 tokens on, and before the end of what the base promises: the rest is no difference."""
    sides = {"max_position_embeddings": promised}, {"max_position_embeddings": stretched}
    assert unseen is _acts_beyond(1024, ["rope_type"], {}, {"rope_type": kind}, *sides)


@pytest.mark.parametrize(
    ("sizes", "unseen"), [((None, 1024), True), ((None, 1023), False), ((2048, 512), False)]
)
def test_a_window_is_not_seen_where_no_text_is_longer(sizes, unseen):
    """The smaller of two windows counts."""
    before, after = ({"sliding_window": size} for size in sizes)
    assert unseen is _acts_beyond(1024, ["sliding_window"], before, after, {}, {})


@pytest.mark.parametrize("swapped", [False, True])
def test_a_side_that_leaves_a_default_out_computes_with_it(swapped):
    """Whichever of the two states it."""
    sides = [BASE_CONFIG, BASE_CONFIG | {"rms_norm_eps": 1e-6}]
    assert "kept" == compare_settings(*(sides[::-1] if swapped else sides)).status
    other = [BASE_CONFIG, BASE_CONFIG | {"rms_norm_eps": 1e-5}]
    assert "damaged" == compare_settings(*(other[::-1] if swapped else other)).status


BASE_CONFIG = {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4}
