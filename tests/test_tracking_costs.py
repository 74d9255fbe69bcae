"""docs/what-tracking-costs.md says what was measured."""

from __future__ import annotations

import pytest
from tracking.cases import JUDGED, all_cases
from tracking.run import DOCUMENT, load
from tracking.tables import TABLES, filled


def test_its_tables_are_those_of_the_results() -> None:
    text = DOCUMENT.read_text()
    for name in TABLES:
        assert f"<!-- table: {name} -->" in text
    assert filled(text, load()) == text


def test_all_that_is_compared_was_measured() -> None:
    results = load()
    assert {case.key for case in all_cases()} <= set(results)
    assert {case.key for case in JUDGED} == set(results["judged"])


def test_a_table_that_there_is_not() -> None:
    with pytest.raises(KeyError, match="nonsense"):
        filled("<!-- table: nonsense -->\n<!-- end -->", {})
