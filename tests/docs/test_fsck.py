"""The page about fsck names every check there is, and says how many."""

from director.store.fsck import Check
from tests.docs.pages import blocks, page, quoted, rows

PAGE = page("reference/fsck.md")


def test_every_check_is_documented_and_no_other() -> None:
    assert sorted(quoted(name) for name, _ in rows(PAGE)) == sorted(Check)


def test_example_says_how_many_checks_there_are() -> None:
    [example] = blocks(PAGE)

    assert example.code.splitlines() == ["$ director db fsck", f"{len(Check)} checks, nothing found"]
    assert f'{{"checks": {len(Check)}, "findings"' in PAGE
