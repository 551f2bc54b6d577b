"""What another library says is told in one line that ends where a thought does."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from superweight.core.errors import BadInput, one_line
from superweight.core.reason import reason

TRACEBACK = "Traceback (most recent call last):"
PIECES = st.sampled_from([TRACEBACK, "", " ", "\n", ":", " :", ",", "(", "one of:", "the cause", "\r\n", "x"])


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("plain", "plain"),
        ("\n\n  the cause\nand a stack", "the cause"),
        ("Couldn't instantiate the tokenizer from one of: \n(1) a file,\n(2) b", None),
        ("could not be read:", "could not be read"),
        ("", "ValueError"),
        (" \n: \n", "ValueError"),
        (f"It failed: {TRACEBACK}\n  File x, line 1\n    y()\nKeyError: z\n", "It failed: KeyError: z"),
        (f"{TRACEBACK}\n  File x, line 1\nKeyError: z", "KeyError: z"),
    ],
)
def test_the_first_line_that_says_something_is_told(said, expected):
    """More of it where the first announces more, of a traceback the end; its kind where nothing is said."""
    if expected is None:
        expected = "Couldn't instantiate the tokenizer from one of: (1) a file, (2) b"
    assert expected == reason(ValueError(said))


@given(st.lists(PIECES).map("".join))
def test_no_reason_ends_in_a_colon(said):
    """Whatever was said, it is one line, and is never empty."""
    told = reason(OSError(said))
    assert told
    assert 1 == len(told.splitlines())
    assert not told.endswith((":", " "))


@given(st.lists(PIECES).map("".join), st.lists(PIECES).map("".join))
def test_no_message_to_a_person_ends_in_a_colon(said, before):
    """Not where a line of ours ends in what another library said, which was nothing."""
    line = one_line(BadInput(f"{before}cannot be read: {OSError(said)}"))
    assert not line.endswith((":", " "))
    assert 1 == len(line.splitlines())
