"""The models of the wire agree with the fixtures that the sidecar is checked against as well."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from worker.bridge import protocol

FIXTURES = [
    fixture
    for path in sorted((Path(__file__).parents[1] / "wire").glob("*.json"))
    for fixture in json.loads(path.read_text("utf-8"))
]
TABLES = {
    ("to_sidecar", "request"): protocol.TO_SIDECAR,
    ("to_worker", "result"): protocol.RESULTS_OF_SIDECAR,
    ("to_worker", "request"): protocol.TO_WORKER,
    ("to_sidecar", "result"): protocol.RESULTS_OF_WORKER,
    ("to_worker", "notification"): protocol.NOTIFICATIONS,
}


def accepts(fixture: dict[str, Any]) -> bool:
    document, kind = fixture["document"], fixture["kind"]
    assert document["jsonrpc"] == "2.0"
    assert ("id" in document) is (kind != "notification")
    try:
        if kind == "error":
            error = document["error"]
            assert isinstance(error["code"], int)
            assert isinstance(error["message"], str)
            if fixture["direction"] == "to_sidecar":
                protocol.Refusal.model_validate(error["data"])
        else:
            model = TABLES[fixture["direction"], kind][fixture["method"]]
            model.model_validate(document["result" if kind == "result" else "params"])
    except ValidationError:
        return False
    return True


@pytest.mark.parametrize("fixture", FIXTURES, ids=lambda f: f"{f['method']} {f['kind']}: {f['name']}")
def test_a_document_is_accepted_exactly_if_the_wire_allows_it(fixture: dict[str, Any]) -> None:
    assert accepts(fixture) is fixture["valid"]


def test_every_method_of_the_wire_has_fixtures_of_every_kind() -> None:
    seen = {(f["direction"], f["kind"], f["method"]) for f in FIXTURES if f["valid"]}
    wanted = {(*direction_and_kind, method) for direction_and_kind, table in TABLES.items() for method in table}
    assert wanted <= seen
