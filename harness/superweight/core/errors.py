"""The errors that a person is meant to read: one line, what is wrong, what to do."""

# What a terminal shows at a glance; a name of ten thousand characters is not read to its end.
_LONGEST = 600


def one_line(error: Exception) -> str:
    """Return what an error says, in one line of bearable length."""
    # What ends in a colon promises a cause; where another library had none to give, nothing is promised.
    line = " ".join(str(error).split()).rstrip(" :") or type(error).__name__
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST // 2]} ... {line[-_LONGEST // 2 :]}"


class HarnessError(Exception):
    """Anything this harness refuses or cannot vouch for."""


class BadInput(HarnessError):
    """A model, file, option or registry entry that cannot be used as given (exit code 4)."""


class Unavailable(BadInput):
    """A model whose files cannot be had here: not on this machine, not reachable, gated."""


class TooLarge(Unavailable):
    """A model that the memory at hand does not hold."""


class UnknownArchitecture(BadInput):
    """A model in which no decoder blocks with an MLP output projection were recognised."""


class EditFailed(HarnessError):
    """An edit that did not take effect, or was not undone: nothing measured with it counts."""


class NotFinite(BadInput):
    """A forward pass whose residual stream holds NaN or infinity: the dtype overflows."""

    def __init__(self, layer: int, dtype: str) -> None:
        super().__init__(
            f"the residual stream holds NaN or infinity after block {layer}: {dtype} cannot hold this "
            "model's activations, or its weights are damaged; try --dtype bfloat16 or float32"
        )
        self.layer = layer
