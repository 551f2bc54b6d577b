"""Define the errors that a person reads: one line that says what is wrong and what to do."""

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


class BrokenModel(BadInput):
    """A model that was looked at and found broken: a tensor missing, misshapen, cut short, NaN.

    Everything else that stops a measurement says something of the place where it runs, not of the model.
    """


class Unavailable(BadInput):
    """A model whose files cannot be had here: not on this machine, not reachable, gated."""


class TooLarge(Unavailable):
    """A model that the memory at hand does not hold."""


class NotLoadable(BadInput):
    """A model whose files are here and that the libraries at hand do not load: nothing was seen of it."""


class EngineFailed(NotLoadable):
    """An engine that does not run a model here: it refuses the file, does not know it, or died of it."""


class UnknownArchitecture(BadInput):
    """A model in which no decoder blocks with an MLP output projection were recognised."""


# A model that is what it should be, as far as is known, and that cannot be run where this runs.
CANNOT_RUN_HERE = (TooLarge, UnknownArchitecture, NotLoadable)


class EditFailed(HarnessError):
    """An edit that did not take effect, or was not undone: nothing measured with it counts."""


class NotFinite(BrokenModel):
    """A forward pass whose residual stream holds NaN or infinity: the dtype overflows."""

    def __init__(self, layer: int, dtype: str) -> None:
        super().__init__(
            f"the residual stream holds NaN or infinity after block {layer}: {dtype} cannot hold this "
            "model's activations, or its weights are damaged; try --dtype bfloat16 or float32"
        )
        self.layer = layer
