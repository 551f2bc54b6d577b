"""What is read off one matrix and its counterpart: emptied rows and columns, peaks, other numbers."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import save_file

from superweight.checkpoints.tensors.open import open_checkpoint
from superweight.core.errors import BadInput
from superweight.release import extents as extents_module
from superweight.release import matrix_checks
from superweight.release.extents import _SAMPLE, extents, in_file, in_memory
from superweight.release.matrix_checks import NUMBERS, _both_experts, _emptied, _numbers, compare_matrices
from superweight.release.settlement import EMPTIED
from superweight.release.tensor_names import Held, by_meaning, paired


@pytest.fixture
def matrix():
    return np.random.default_rng(5).normal(size=(40, 60)).astype(np.float32)


def looked_at(before, after):
    return extents(in_memory(before), in_memory(after))


def emptied(before, after):
    return list(_emptied(before.shape, *looked_at(before, after)[:2]))


def peak(values):
    return looked_at(values, values)[0].peak


def other(before, after):
    return looked_at(before, after)[2]


def test_one_row_is_named_and_several_are_counted(matrix):
    """By its number, or by how many and the first of them."""
    one, several = matrix.copy(), matrix.copy()
    one[7] = 0
    several[[3, 9]] = 0
    assert ["row 7"] == emptied(matrix, one)
    assert ["2 rows (first 3)"] == emptied(matrix, several)
    assert ["column 3"] == emptied(matrix.T, np.where(np.arange(40) == 3, 0, matrix.T))


def test_as_many_empty_rows_as_before_are_no_loss(matrix):
    """Where channels were permuted an empty one lies elsewhere; one more is a loss."""
    base, moved, more = matrix.copy(), matrix.copy(), matrix.copy()
    base[7], moved[9], more[[7, 9]] = 0, 0, 0
    assert [] == emptied(base, moved)
    assert ["row 9"] == emptied(base, more)


def test_a_faint_row_may_be_rounded_away(matrix):
    """Below a hundredth of the median row it says nothing; at that it still does not, above it does."""
    for share, expected in ((0.5, []), (1.0, []), (2.0, ["row 7"])):
        base, after = np.ones((9, 4), np.float32), np.ones((9, 4), np.float32)
        base[7], after[7] = 0.01 * share, 0
        assert expected == emptied(base, after), share


def test_a_vector_has_neither_rows_nor_columns():
    """Of one dimension nothing is yielded."""
    assert [] == emptied(np.ones(9), np.zeros(9))


def test_a_peak_is_the_largest_over_the_median_of_what_is_not_zero():
    """Zeros, as of pruned matrices, do not count; where all are zero there is no peak."""
    assert 5.0 == peak(np.array([[0.0, 1.0], [1.0, 5.0], [0.0, 1.0]]))
    assert 1.0 == peak(np.zeros((3, 3)))


def test_of_a_large_matrix_a_sample_gives_the_median_and_all_of_it_the_largest():
    """Every second of twice as many numbers; the largest is found between them."""
    values = np.tile(np.array([2.0, 4.0]), _SAMPLE)
    values[1] = 100.0
    assert 50.0 == peak(values)
    values[0] = 200.0
    assert 100.0 == peak(values)


def test_a_peak_beyond_the_sample_whose_numbers_are_all_zero_is_none():
    """There is no median to hold it against."""
    values = np.zeros(2 * _SAMPLE)
    values[1] = 3.0
    assert 1.0 == peak(values)


@pytest.mark.parametrize(
    ("change", "share"),
    [
        (lambda values: values, 0.0),
        (lambda values: values * 1.5, 0.0),
        (lambda values: values * 1.8, 0.0),
        (lambda values: values * 2.0, 1.0),
        (lambda values: -values, 1.0),
        (lambda values: np.concatenate([values[1::-1], values[2:]]), 0.05),
        (lambda values: values[::-1], 1.0),
    ],
    ids=["same", "half as much again", "near to it", "doubled", "other sign", "two swapped", "turned round"],
)
def test_a_row_is_another_where_its_median_number_moves_by_nine_tenths(change, share, matrix):
    """Rounding and tuning move it by half of itself at most; another row moves it by 1.4 times."""
    assert share == pytest.approx(other(matrix, change(matrix)), abs=0.03)


def test_a_vector_is_one_row():
    """The gains of a norm are others or they are not."""
    gains = np.linspace(1, 2, 30)
    assert (0.0, 1.0) == (other(gains, gains * 1.2), other(gains, gains * 3))


def test_a_row_as_good_as_empty_is_noother():
    """Tokens that nobody trained hold noise, whatever it is."""
    base, after = np.ones((9, 4)), np.ones((9, 4))
    base[7], after[7] = 1e-4, -1e-4
    assert 0.0 == other(base, after)


def test_how_many_tensors_hold_other_numbers_is_told_as_a_change():
    """None is kept, within every limit; some are named, and their number is in the figures."""
    kept, told = _numbers([], 4), _numbers(["a", "b"], 4)
    assert ("kept", 0.0) == (kept.status, kept.excess)
    assert ("changed", {"tensors": 2, "of": 4}) == (told.status, told.figures)
    assert "2 of 4 tensors hold other numbers than the base's: a, b" == told.reason


@pytest.mark.parametrize(
    ("was", "now", "expected"),
    [
        (((0,), False), ((1,), False), True),
        (((0,), True), ((1,), True), True),
        (((0,), False), ((1,), True), False),
        (((0,), True), ((1,), False), False),
        ((None, False), ((1,), False), False),
        (((0,), False), (None, False), False),
    ],
)
def test_experts_are_held_against_each_other_where_both_have_gate_and_up_alike(was, now, expected):
    """Both fused or both not; what is no expert is compared otherwise."""
    sides = [Held(**held(*side)) for side in (was, now)]
    assert expected is _both_experts(*sides)


def held(leading, fused):
    return {"name": "x", "info": None, "plain": True, "leading": leading, "fused": fused}


BLOCK = "model.layers.0"
DOWN, EMBEDDING, GAIN = (
    f"{BLOCK}.mlp.down_proj.weight",
    "model.embed_tokens.weight",
    f"{BLOCK}.input_layernorm.weight",
)


@pytest.fixture
def compared(tmp_path, matrix):
    """Compare files of a matrix, an embedding and a few gains with others; the checks by name."""

    def compare(release=None, base=None):
        ours = {DOWN: matrix, EMBEDDING: 2 * matrix, GAIN: np.ones(8, np.float32)}
        sides = []
        for name, change in (("base", base), ("release", release)):
            (tmp_path / name).mkdir(exist_ok=True)
            tensors = {key: value for key, value in (ours | (change or {})).items() if value is not None}
            save_file(tensors, tmp_path / name / "model.safetensors")
            sides.append(open_checkpoint(tmp_path / name))
        return {check.name: check for check in compare_matrices(*sides, paired(*sides))}

    return compare


def zeroed(values, row):
    return np.where(np.arange(len(values))[:, None] == row, np.float32(0), values)


def test_what_is_large_enough_is_counted(compared):
    """A matrix and an embedding; eight gains of a norm tell nothing of rows and peaks."""
    checks = compared()
    assert "no row or column of 2 tensors was emptied" == checks[EMPTIED].reason
    assert "all 2 tensors hold the base's numbers, or near to them" == checks[NUMBERS].reason
    peaks = checks["peaks"]
    assert ("kept", {"ratio": 1.0}) == (peaks.status, peaks.figures)
    assert [0.0, 0.0] == [checks[name].excess for name in (EMPTIED, NUMBERS)]
    assert {"static"} == {check.depth for check in checks.values()}


def test_of_a_vocabulary_the_rows_that_both_have_are_compared(compared, matrix):
    """A row more is told elsewhere, and hides no row that was emptied; other matrices must be as large."""
    padded = np.concatenate([zeroed(2 * matrix, 3), np.ones((4, 60), np.float32)])
    assert f"emptied: row 3 of {EMBEDDING}" == compared({EMBEDDING: padded})[EMPTIED].reason


def test_a_matrix_of_another_shape_is_told_elsewhere(compared, matrix):
    """There is nothing to hold it against."""
    checks = compared({DOWN: zeroed(matrix, 3)[:, :50]})
    assert "no row or column of 1 tensors was emptied" == checks[EMPTIED].reason


@pytest.mark.parametrize(("name", "of_tokens"), [(DOWN, False), (EMBEDDING, True)])
def test_what_was_emptied_is_a_token_s_own_or_everybody_s(compared, matrix, name, of_tokens):
    """Only text that has those tokens shows what a vocabulary lost."""
    before = matrix if name == DOWN else 2 * matrix
    check = compared({name: zeroed(before, 7)})[EMPTIED]
    assert ("damaged", of_tokens) == (check.status, check.figures["of_tokens"])


def test_what_is_packed_on_one_side_is_not_held_against_numbers(compared):
    """Its codes are no numbers."""
    checks = compared({DOWN: np.zeros((40, 60), np.uint8)})
    assert "no row or column of 1 tensors was emptied" == checks[EMPTIED].reason


def test_a_number_that_is_none_is_told_elsewhere(compared, matrix):
    """Infinity is no peak."""
    spoilt = matrix.copy()
    spoilt[2, 2] = np.inf
    assert {"ratio": 1.0} == compared({DOWN: spoilt})["peaks"].figures


@pytest.mark.parametrize(("stacked", "row"), [("base", 3), ("release", 3), ("both", 3)])
def test_experts_may_be_stacked_on_either_side(compared, matrix, stacked, row):
    """Each is held against its own."""
    name = f"{BLOCK}.mlp.experts"

    def side(values, *, together):
        each = np.stack([matrix, values])
        alone = {f"{name}.{number}.down_proj.weight": one for number, one in enumerate(each)}
        return {DOWN: None} | ({f"{name}.down_proj": each} if together else alone)

    checks = compared(
        side(zeroed(3 * matrix, row), together=stacked != "base"),
        side(3 * matrix, together=stacked != "release"),
    )
    told = f"{name}.1.down_proj.weight" if stacked == "base" else f"{name}.down_proj, expert 1"
    assert f"emptied: row {row} of {told}" == checks[EMPTIED].reason


def test_what_cannot_be_read_on_one_side_is_named(compared, monkeypatch):
    """Where nothing could be read nothing is said to be kept; where something could, it is compared."""
    read = matrix_checks.in_file

    def refusing(*names):
        def look(checkpoint, name, common):
            if name in names:
                raise BadInput(f"{name} is packed")
            return read(checkpoint, name, common)

        return look

    monkeypatch.setattr(matrix_checks, "in_file", refusing(DOWN))
    assert "of 1 tensors" in compared()[EMPTIED].reason
    monkeypatch.setattr(matrix_checks, "in_file", refusing(DOWN, EMBEDDING))
    ((name, check),) = compared().items()
    assert ("matrices", "not comparable") == (name, check.status)
    assert check.reason.endswith("cannot be read")


@pytest.mark.parametrize("shape", [(7,), (6, 5), (4, 3, 5)], ids=["gains", "a matrix", "in three dimensions"])
@pytest.mark.parametrize("piece", [1, 7, 2**17])
def test_a_file_is_looked_at_as_what_is_in_memory(shape, piece, tmp_path, monkeypatch):
    """In one piece or in many, of whatever shape; rows that are not asked for are left out."""
    monkeypatch.setattr(extents_module, "_PIECE", piece)
    before = np.random.default_rng(3).normal(size=shape).astype(np.float32)
    after = before[::-1].copy()
    save_file({"before": before, "after": after}, tmp_path / "model.safetensors")
    checkpoint = open_checkpoint(tmp_path)
    for count in (None, 3):
        pair = (before, after) if count is None else (before[:count], after[:count])
        expected = extents(*(in_memory(values) for values in pair))
        found = extents(in_file(checkpoint, "before", count), in_file(checkpoint, "after", count))
        for one, other_ in zip(found[:2], expected[:2], strict=True):
            assert one.rows.tolist() == other_.rows.tolist()
            assert one.cols.tolist() == other_.cols.tolist()
        assert expected[2] == found[2]
        table = in_file(checkpoint, "before", count)
        rows = 1 if len(shape) == 1 else len(pair[0])
        assert (pair[0].shape, rows, pair[0].size) == (table.shape, table.count, rows * table.width)


def test_zeros_are_no_part_of_the_median_and_small_numbers_have_peaks():
    """Whatever the unit; of numbers that are mostly zero the others give the median."""
    assert 1.6 == pytest.approx(peak(np.array([[0.0, 0, 0, 2], [0, 0, 0, 8]])))
    assert 5.0 == pytest.approx(peak(1e-3 * np.array([[1.0, 1.0], [1.0, 5.0]])))


def test_a_row_of_which_just_half_moved_is_the_same():
    """More than half of its numbers tell a row from another."""
    base = np.ones((9, 4), np.float32)
    half, more = base.copy(), base.copy()
    half[2, :2], more[2, :3] = 5, 5
    assert (0.0, pytest.approx(1 / 9)) == (other(base, half), other(base, more))


def test_gate_and_up_in_one_tensor_are_fused(tmp_path):
    """Of an expert that stands alone as of a stack; the down projection is not."""
    block = "model.layers.0.mlp.experts"
    tensors = {f"{block}.0.gate_up_proj.weight": np.ones((6, 4), np.float32)}
    tensors |= {f"{block}.0.down_proj.weight": np.ones((4, 3), np.float32)}
    save_file(tensors, tmp_path / "model.safetensors")
    held = by_meaning(open_checkpoint(tmp_path))
    assert {True} == {side.fused for key, side in held.items() if "down" not in key}
    assert {False} == {side.fused for key, side in held.items() if "down" in key}
