"""The table of forms: the page says what it says, and every form is told apart from the others."""

from superweight.checkpoints.forms.table import FORMS, SCALED, UNREAD
from tools.forms_table import BEGIN, END, PAGE, rewritten


def test_the_page_says_what_the_table_says():
    """`python -m tools.forms_table` was run after the last change."""
    page = PAGE.read_text(encoding="utf-8")
    assert rewritten(page) == page
    table = page[page.index(BEGIN) : page.index(END)]
    for name in [*(form.name for form in (*SCALED, *FORMS)), *(kind for kind, _ in UNREAD.values())]:
        assert f"\n| {name} |" in table


def test_a_row_that_is_missing_is_noticed():
    """A page without a form's row is not what the tool writes."""
    page = PAGE.read_text(encoding="utf-8")
    (row,) = [line for line in page.splitlines() if line.startswith("| HQQ |")]
    without = page.replace(row + "\n", "")
    assert rewritten(without) != without


def test_names_are_given_once():
    """Two forms of one name could not be told apart in a message."""
    names = [form.name for form in (*SCALED, *FORMS)]
    assert sorted(set(names)) == sorted(names)
