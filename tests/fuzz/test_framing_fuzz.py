"""Any document crosses the wire as one line."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from worker.bridge.framing import make_line


@given(st.dictionaries(st.text(), st.one_of(st.text(), st.integers(), st.none()), max_size=5))
def test_every_document_is_one_line_and_comes_back(document: dict[str, Any]) -> None:
    line = make_line(document)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert json.loads(line) == document
