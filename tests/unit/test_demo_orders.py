"""What a line at the prompt of the demo's town asks for."""

from __future__ import annotations

import pytest

from demo.orders import Order, named, parse

GROUPS = {"market": "Saturday market", "crew": "Loading crew", "family": "Family"}


@pytest.mark.parametrize(
    ("line", "order"),
    [
        pytest.param("two crates\n", Order("text", "two crates"), id="a text"),
        pytest.param("  \n", None, id="a blank line"),
        pytest.param("/picture the  road \n", Order("picture", "the  road"), id="a picture with its caption"),
        pytest.param("/EDIT three", Order("edit", "three"), id="capitals"),
        pytest.param("/kill", Order("kill"), id="no words"),
        pytest.param("/text hello", None, id="text is no verb that can be typed"),
        pytest.param("/dance", None, id="an unknown verb"),
    ],
)
def test_a_line_is_an_order(line: str, order: Order | None) -> None:
    assert parse(line) == order


@pytest.mark.parametrize(
    ("words", "key"),
    [
        pytest.param("sat", "market", id="the beginning of a name"),
        pytest.param("crew", "crew", id="a key"),
        pytest.param("nobody", None, id="no name"),
        pytest.param("", None, id="nothing"),
    ],
)
def test_a_group_is_named_by_its_beginning(words: str, key: str | None) -> None:
    assert named(words, GROUPS) == key
