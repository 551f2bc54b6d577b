"""Call llama.cpp's C interface, llama.h, in the library that xllamacpp ships.

xllamacpp's own door, a completion server, tells probabilities of one position a call, and none where the
sampled token is no whole character; the C interface gives the logits of every position at once. What it
passes by value has the layout of one version. So the numbers that llama.cpp puts into such a structure
by itself must lie where they are looked for, or nothing is run; and `superweight.engines.llama_cpp.proof`
holds the logits to the server's.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import POINTER, c_bool, c_char_p, c_float, c_int8, c_int32, c_uint32, c_uint64, c_void_p
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Tokens that are decoded at once: as many as llama.cpp computes in one piece by itself.
CHUNK = 512
# Of ggml's levels of messages.
_ERROR, _CONTINUED = 4, 5
# Room behind the fields that are known; what a function is handed beyond its structure it never reads.
_ROOM = 128


class InterfaceChanged(Exception):
    """A library in which a structure is laid out otherwise than is known here."""


class Refused(Exception):
    """A file, or a text, that llama.cpp does not take; the message is its own."""


class _ModelParameters(ctypes.Structure):
    _fields_ = (
        ("devices", c_void_p),
        ("overrides", c_void_p),
        ("n_gpu_layers", c_int32),
        ("rest", c_uint32 * _ROOM),
    )


class _ContextParameters(ctypes.Structure):
    _fields_ = (
        ("n_ctx", c_uint32),
        ("n_batch", c_uint32),
        ("n_ubatch", c_uint32),
        ("n_seq_max", c_uint32),
        ("n_rs_seq", c_uint32),
        ("n_outputs_max", c_uint32),
        ("n_outputs_max_per_seq", c_uint32),
        ("n_threads", c_int32),
        ("n_threads_batch", c_int32),
        ("rest", c_uint32 * _ROOM),
    )


# What llama.cpp fills in by itself.
_CONTEXT_DEFAULTS = {
    "n_ctx": 512,
    "n_batch": 2048,
    "n_ubatch": 512,
    "n_seq_max": 1,
    "n_rs_seq": 0,
    "n_outputs_max": 0,
    "n_outputs_max_per_seq": 1,
    "n_threads": 4,
    "n_threads_batch": 4,
}
_ALL_LAYERS = -1


class _Batch(ctypes.Structure):
    _fields_ = (
        ("n_tokens", c_int32),
        ("token", POINTER(c_int32)),
        ("embd", c_void_p),
        ("pos", POINTER(c_int32)),
        ("n_seq_id", POINTER(c_int32)),
        ("seq_id", POINTER(POINTER(c_int32))),
        ("logits", POINTER(c_int8)),
    )


_Log = ctypes.CFUNCTYPE(None, ctypes.c_int, c_char_p, c_void_p)

_FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "llama_backend_init": (None, ()),
    "llama_log_set": (None, (_Log, c_void_p)),
    "llama_model_default_params": (_ModelParameters, ()),
    "llama_context_default_params": (_ContextParameters, ()),
    "llama_model_load_from_file": (c_void_p, (c_char_p, _ModelParameters)),
    "llama_model_free": (None, (c_void_p,)),
    "llama_model_desc": (c_int32, (c_void_p, c_char_p, c_uint64)),
    "llama_model_get_vocab": (c_void_p, (c_void_p,)),
    "llama_vocab_n_tokens": (c_int32, (c_void_p,)),
    "llama_tokenize": (c_int32, (c_void_p, c_char_p, c_int32, POINTER(c_int32), c_int32, c_bool, c_bool)),
    "llama_init_from_model": (c_void_p, (c_void_p, _ContextParameters)),
    "llama_free": (None, (c_void_p,)),
    "llama_get_memory": (c_void_p, (c_void_p,)),
    "llama_memory_clear": (None, (c_void_p, c_bool)),
    "llama_batch_init": (_Batch, (c_int32, c_int32, c_int32)),
    "llama_batch_free": (None, (_Batch,)),
    "llama_decode": (c_int32, (c_void_p, _Batch)),
    "llama_get_logits": (POINTER(c_float), (c_void_p,)),
    "llama_supports_gpu_offload": (c_bool, ()),
    "llama_print_system_info": (c_char_p, ()),
}


class Interface:
    """The functions of the library, and what it has said since it was last asked."""

    def __init__(self) -> None:
        """Raise `ImportError` where xllamacpp is not installed, `InterfaceChanged` where it is another."""
        from xllamacpp import xllamacpp as native

        library = ctypes.CDLL(str(native.__file__))
        for name, (result, arguments) in _FUNCTIONS.items():
            try:
                function = getattr(library, name)
            except AttributeError:
                raise InterfaceChanged(f"its library has no {name}") from None
            function.restype, function.argtypes = result, arguments
            setattr(self, name, function)
        self.messages: list[str] = []
        # Held, or Python would free what the library calls.
        self._log = _Log(self._said)
        self.llama_log_set(self._log, None)
        self.llama_backend_init()
        self._require_layout()

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)  # set one by one above

    def _said(self, level: int, text: bytes, _: object) -> None:
        if level == _ERROR:
            self.messages.append(text.decode("utf-8", "replace").strip())

    def refusal(self) -> str:
        """Return what the library complained of since this was last asked: its first complaint."""
        said, self.messages = self.messages, []
        return next((line for line in said if line), "it gave no reason")

    def _require_layout(self) -> None:
        context = self.llama_context_default_params()
        found = {name: getattr(context, name) for name in _CONTEXT_DEFAULTS}
        layers = self.llama_model_default_params().n_gpu_layers
        if found != _CONTEXT_DEFAULTS or layers != _ALL_LAYERS:
            raise InterfaceChanged(f"its structures hold {found} and {layers} layers on a GPU")


class LoadedModel:
    """One GGUF file in memory."""

    def __init__(self, interface: Interface, path: Path, *, threads: int, gpu: bool) -> None:
        """Raise `Refused` where llama.cpp does not load the file."""
        self._interface, self._threads = interface, threads
        parameters = interface.llama_model_default_params()
        if not gpu:
            parameters.n_gpu_layers = 0
        interface.refusal()
        self._model = interface.llama_model_load_from_file(str(path).encode(), parameters)
        if not self._model:
            raise Refused(interface.refusal())
        self._vocabulary = interface.llama_model_get_vocab(self._model)
        self.tokens = int(interface.llama_vocab_n_tokens(self._vocabulary))

    @property
    def description(self) -> str:
        """The architecture, size and type, in llama.cpp's words."""
        room = ctypes.create_string_buffer(256)
        self._interface.llama_model_desc(self._model, room, len(room))
        return room.value.decode("utf-8", "replace")

    def free(self) -> None:
        self._interface.llama_model_free(self._model)

    def tokenised(self, text: str) -> list[int]:
        """Return the tokens of a text with what the file puts in front of it; special tokens are read."""
        data = text.encode()
        room = len(data) + 16
        ids = (c_int32 * room)()
        count = self._interface.llama_tokenize(self._vocabulary, data, len(data), ids, room, True, True)
        if count < 0:
            raise Refused(f"it does not tokenise {text[:40]!r}")
        return list(ids[:count])

    def context(self, sequences: int, tokens: int) -> Context:
        """Return room for so many sequences of so many tokens."""
        parameters = self._interface.llama_context_default_params()
        parameters.n_ctx = sequences * (-(-tokens // 256) * 256)
        parameters.n_batch = parameters.n_ubatch = CHUNK
        parameters.n_seq_max = sequences
        parameters.n_outputs_max = CHUNK
        parameters.n_outputs_max_per_seq = CHUNK
        parameters.n_threads = parameters.n_threads_batch = self._threads
        self._interface.refusal()
        made = self._interface.llama_init_from_model(self._model, parameters)
        if not made:
            raise Refused(f"there is no room for {sequences} x {tokens} tokens: {self._interface.refusal()}")
        return Context(self._interface, made, self.tokens)


class Context:
    """The state of sequences that are decoded side by side; a context manager, as it holds memory."""

    def __init__(self, interface: Interface, made: int, vocabulary: int) -> None:
        self._interface, self._made, self._vocabulary = interface, made, vocabulary
        self._batch = interface.llama_batch_init(CHUNK, 0, 1)

    def __enter__(self) -> Context:
        return self

    def __exit__(self, *_: object) -> None:
        self._interface.llama_batch_free(self._batch)
        self._interface.llama_free(self._made)

    def clear(self) -> None:
        """Forget every sequence."""
        self._interface.llama_memory_clear(self._interface.llama_get_memory(self._made), True)

    def decode(self, items: Sequence[tuple[int, int, int, bool]]) -> NDArray[np.float32]:
        """Decode at most `CHUNK` tokens, each as (sequence, position, id, whether its logits are wanted).

        Returns the logits that are wanted, in order: (wanted, vocabulary). Raises `Refused`.
        """
        batch = self._batch
        for place, (sequence, position, token, wanted) in enumerate(items):
            batch.token[place], batch.pos[place] = token, position
            batch.n_seq_id[place], batch.seq_id[place][0] = 1, sequence
            batch.logits[place] = wanted
        batch.n_tokens = len(items)
        self._interface.refusal()
        if (code := self._interface.llama_decode(self._made, batch)) != 0:
            raise Refused(f"decoding stopped with code {code}: {self._interface.refusal()}")
        count = sum(wanted for *_, wanted in items)
        if not count:
            return np.empty((0, self._vocabulary), np.float32)
        logits = self._interface.llama_get_logits(self._made)
        return np.ctypeslib.as_array(logits, (count, self._vocabulary))
