"""Compare two tokenizers by their files: ids, BOS in front, a row for every token, the chat template."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from superweight.checkpoints.tensors.checkpoint import Checkpoint, json_object
from superweight.core.errors import BadInput, one_line
from superweight.release.result import STATIC, Check, broken, joined, within
from superweight.release.tensor_names import by_meaning

TOKENIZER, BEGINNING, ROWS, TEMPLATE = "tokenizer", "BOS", "rows of added tokens", "chat template"

# Capitals, accents composed and not, digits, code, other scripts, odd spaces: what a normaliser changes.
_PROBES = (
    "The Quick Brown Fox, said Zoë — isn't it?",
    "Cafe\u0301 naïve ﬁne ½ ＡＢＣ",
    "In 1984, 3.14159 and 1,000,000 were numbers; 0x7fFF too.",
    "def f(x):\n    return {'a': x ** 2}  # two  spaces\t tab",
    "Съешь ещё этих мягких булок. 今日は天気がいい。 مرحبا بالعالم हिन्दी",
    "  leading, trailing  \n\n🙂👩‍👩‍👧",
)
_EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight")
_SECTIONS = ("normalizer", "pre_tokenizer", "model", "post_processor", "added_tokens")
_CHAT = [
    {"role": "user", "content": "What is two and two?"},
    {"role": "assistant", "content": "Four."},
    {"role": "user", "content": "And three?"},
]


@dataclass(frozen=True)
class _Files:
    """A tokenizer's files, empty where they are absent or cannot be read."""

    tokenizer: Mapping[str, Any]
    config: Mapping[str, Any]
    template: str | None
    text: str | None


def compare_tokenizers(base: Checkpoint, release: Checkpoint) -> Iterator[Check]:
    """Yield the checks of the tokenizers' files; nothing is yielded where one side has none."""
    try:
        before, after = _files(base), _files(release)
    except BadInput as error:
        yield broken(STATIC, TOKENIZER, f"the release's tokenizer cannot be read: {error}")
        return
    if before.text and after.text:
        yield from _ids(before, after)
    yield from _rows(release, after)
    yield from _template(before, after)


def _ids(before: _Files, after: _Files) -> Iterator[Check]:
    # Made for one purpose, and not needed to look at the tensors.
    from tokenizers import Tokenizer

    try:
        sides = [Tokenizer.from_str(side.text or "") for side in (before, after)]
    # The library raises bare exceptions of its own for a document that it cannot make sense of.
    except Exception as error:
        yield broken(STATIC, TOKENIZER, f"the release's tokenizer.json is refused: {one_line(error)}")
        return
    plain = [[side.encode(text, add_special_tokens=False).ids for text in _PROBES] for side in sides]
    full = [[side.encode(text).ids for text in _PROBES] for side in sides]
    differing = [text for text, one, other in zip(_PROBES, *plain, strict=True) if one != other]
    if differing:
        changed = [name for name in _SECTIONS if before.tokenizer.get(name) != after.tokenizer.get(name)]
        words = f"the tokenizer reads {json.dumps(differing[0], ensure_ascii=False)} as other tokens"
        yield broken(STATIC, TOKENIZER, f"{words}: its {joined(changed)} differs from the base's")
    else:
        yield within(STATIC, TOKENIZER, "the tokenizer reads every probe as the base's does", 0.0)
    fronts = [_front(*lists) for lists in zip(plain, full, strict=True)]
    for side, files in enumerate((before, after)):
        if files.config.get("add_bos_token") is False:
            fronts[side] = ()
    if differing:
        return
    if fronts[0] and not fronts[1]:
        token = sides[0].id_to_token(fronts[0][0])
        yield broken(
            STATIC,
            BEGINNING,
            f"BOS is dropped: the base's tokenizer begins with {token}, the release's does not",
        )
    elif fronts[0] != fronts[1]:
        names = [
            joined([tokens.id_to_token(item) for item in front]) or "nothing"
            for tokens, front in zip(sides, fronts, strict=True)
        ]
        yield broken(
            STATIC,
            BEGINNING,
            f"BOS differs: the base's tokenizer begins with {names[0]}, the release's with {names[1]}",
        )
    else:
        yield within(STATIC, BEGINNING, "text begins as the base's does", 0.0)


def _front(plain: list[list[int]], full: list[list[int]]) -> tuple[int, ...]:
    """Return what the tokenizer puts before a text."""
    own, whole = plain[0], full[0]
    length = next((at for at in range(len(whole)) if whole[at : at + len(own)] == own), 0)
    return tuple(whole[:length])


def _rows(release: Checkpoint, after: _Files) -> Iterator[Check]:
    added = after.tokenizer.get("added_tokens")
    tokens = [item for item in added if isinstance(item, dict)] if isinstance(added, list) else []
    held = by_meaning(release)
    rows = next((held[key].info.shape[0] for key in _EMBEDDINGS if key in held and held[key].plain), None)
    if not tokens or rows is None:
        return
    without = [str(item.get("content")) for item in tokens if int(item.get("id", 0)) >= rows]
    if without:
        yield broken(
            STATIC, ROWS, f"added tokens without a row in the embedding of {rows}: {joined(without)}"
        )
    else:
        yield within(STATIC, ROWS, f"all {len(tokens)} added tokens have a row in the embedding", 0.0)


def _template(before: _Files, after: _Files) -> Iterator[Check]:
    if after.template is None:
        if before.template is not None:
            yield broken(STATIC, TEMPLATE, "the base has a chat template and the release has none")
        return
    try:
        closed, open_ = (_rendered(after, prompted=prompted) for prompted in (False, True))
    except _Unrendered as error:
        yield broken(STATIC, TEMPLATE, f"the chat template does not render: {error}")
        return
    if before.template is not None and closed == open_:
        try:
            asks = _rendered(before, prompted=False) != _rendered(before, prompted=True)
        except _Unrendered:
            asks = False
        if asks:
            yield broken(
                STATIC, TEMPLATE, "the chat template lacks the assistant's tag, which the base's ends with"
            )
            return
    if missing := [item["content"] for item in _CHAT if item["content"] not in open_]:
        yield broken(STATIC, TEMPLATE, f"the chat template leaves out what was said: {joined(missing)}")
        return
    yield within(STATIC, TEMPLATE, "the chat template renders", 0.0)


class _Unrendered(Exception):
    """A template that raises."""


def _rendered(files: _Files, *, prompted: bool) -> str:
    # Only models that chat have a template.
    from jinja2.exceptions import TemplateError
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )
    environment.filters["tojson"] = lambda value, indent=None, **_: json.dumps(
        value, ensure_ascii=False, indent=indent
    )
    environment.globals |= {"raise_exception": refuse, "strftime_now": lambda _: "1 January 2025"}
    names = ("bos_token", "eos_token", "unk_token", "pad_token")
    special = {name: _content(files.config.get(name)) for name in names}
    try:
        template = environment.from_string(files.template or "")
        return template.render(messages=_CHAT, add_generation_prompt=prompted, **special)
    # A template is a program: it raises whatever it likes.
    except Exception as error:
        raise _Unrendered(one_line(error) or type(error).__name__) from error


def _content(token: Any) -> str:
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else ""


def _files(checkpoint: Checkpoint) -> _Files:
    if checkpoint.is_gguf:
        return _Files({}, {}, None, None)
    folder = checkpoint.folder
    texts = {
        name: folder.document(name)
        for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
    }
    tokenizer, config = (
        {} if text is None else json_object(text, f"{folder.name}/{name}")
        for name, text in list(texts.items())[:2]
    )
    template: Any = config.get("chat_template")
    if isinstance(template, list):  # several by name
        template = {item.get("name"): item.get("template") for item in template}.get("default")
    if (own := texts["chat_template.jinja"]) is not None:
        template = own.decode("utf-8", "replace")
    text = texts["tokenizer.json"]
    return _Files(
        tokenizer,
        config,
        template if isinstance(template, str) else None,
        None if text is None else text.decode(),
    )
