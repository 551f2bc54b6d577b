"""Where a scalar sits: how a coordinate is written, read, ordered and refused."""

import pytest

from superweight.core.coordinates import Coordinate
from superweight.core.errors import BadInput


@pytest.mark.parametrize(
    "text",
    ["11,507,1229", "[11, 507, 1229]", " 11 , 507 , 1229 "],
    ids=["option", "table 2", "spaces"],
)
def test_reads_every_way_a_coordinate_is_written(text):
    """The option's form and the paper's form name the same scalar."""
    assert Coordinate(11, 507, 1229) == Coordinate.parse(text)


def test_is_written_as_in_table_2():
    """A coordinate reads back from what it is written as."""
    assert "[1, 2070, 7310]" == str(Coordinate(1, 2070, 7310))
    assert Coordinate(1, 2070, 7310) == Coordinate.parse(str(Coordinate(1, 2070, 7310)))


def test_names_an_expert_between_layer_and_row():
    """Four numbers are (layer, expert, row, col), written and read alike."""
    place = Coordinate(3, 61, 7, expert=12)
    assert "[3, 12, 61, 7]" == str(place)
    assert place == Coordinate.parse("3,12,61,7") == Coordinate.of(3, 12, 61, 7)


def test_shared_projections_stand_before_the_experts():
    """A block's dense or shared projection sorts before its experts, and they by number."""
    shared, first, second = Coordinate(3, 9, 9), Coordinate(3, 1, 1, 0), Coordinate(3, 0, 0, 1)
    assert [shared, first, second, Coordinate(4, 0, 0)] == sorted(
        [Coordinate(4, 0, 0), second, first, shared]
    )


def test_zero_is_an_index():
    """Indices start at 0, so the very first scalar can be named."""
    assert Coordinate(0, 0, 0) == Coordinate.parse("0,0,0")


@pytest.mark.parametrize(
    "text",
    ["", "1,2", "1,2,3,4,5", "1,2,x", "1.0,2,3", "1;2;3", "one\ntwo"],
    ids=["empty", "two", "five", "letter", "fraction", "semicolons", "two lines"],
)
def test_refuses_what_is_no_coordinate(text):
    """Anything but three or four integers is bad input, quoted, with the form to write, in one line."""
    with pytest.raises(BadInput, match="write LAYER,ROW,COL") as caught:
        Coordinate.parse(text)
    assert str(caught.value).startswith(repr(text))
    assert 1 == len(str(caught.value).splitlines())


@pytest.mark.parametrize("text", ["-1,2,3", "1,-2,3", "1,2,-3"], ids=["layer", "row", "col"])
def test_refuses_a_negative_index_wherever_it_stands(text):
    """No index may count from the end, as Python's would."""
    with pytest.raises(BadInput, match="negative index; indices start at 0"):
        Coordinate.parse(text)


def test_orders_by_layer_then_row_then_col():
    """Sorting coordinates walks through the model block by block, numerically."""
    assert [Coordinate(1, 9, 9), Coordinate(2, 2, 10), Coordinate(2, 10, 1), Coordinate(10, 0, 0)] == sorted(
        [Coordinate(10, 0, 0), Coordinate(2, 10, 1), Coordinate(1, 9, 9), Coordinate(2, 2, 10)]
    )


def test_equal_coordinates_are_one_member_of_a_set():
    """Coordinates compare and hash by value, so sets of them can be intersected."""
    assert {Coordinate(1, 2, 3)} == {Coordinate(1, 2, 3), Coordinate.parse("1,2,3")}
