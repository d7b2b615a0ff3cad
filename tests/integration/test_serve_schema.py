"""Requests made from the OpenAPI document, sound and unsound: each gets an answer that the document describes, and
none makes the server fail."""

from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from serving import RunningServer, serving

EXAMPLES = 60
MODELS = ["tiny", "tiny:bon-2", "tiny:cbs-2-2-3", "tiny:eft-0.5", "tiny:tuned"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with serving(tmp_path_factory.mktemp("models")) as running:
        yield running


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["sound", "unsound"])
@pytest.mark.parametrize("route", ["POST /v1/chat/completions", "POST /v1/completions", "POST /tokenize"])
def test_every_answer_is_one_that_the_document_describes(
    route: str, mode: GenerationMode, server: RunningServer
) -> None:
    """Fields that contradict each other are refused, which a schema cannot say: that check is left out."""
    method, path = route.split()
    operation = schemathesis.openapi.from_url(f"{server.address}/openapi.json")[path][method]
    statuses = set()

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[*HealthCheck], derandomize=True)
    def holds(case: schemathesis.Case) -> None:
        if isinstance(case.body, dict) and isinstance(case.body.get("model"), str):
            case.body["model"] = MODELS[len(str(case.body)) % len(MODELS)]  # else nearly all would be 404
        answer = case.call_and_validate(excluded_checks=[positive_data_acceptance], timeout=60)
        statuses.add(answer.status_code)

    holds()
    assert (200 if mode is GenerationMode.POSITIVE else 400) in statuses


def test_the_document_names_every_route(server: RunningServer) -> None:
    document = server.get("/openapi.json").json()
    generation = {"/v1/chat/completions", "/v1/completions"}
    assert {*document["paths"]} == generation | {
        "/v1/models", "/v1/models/{model}", "/tokenize", "/health", "/metrics"
    }  # fmt: skip
    for route in document["paths"].values():
        for operation in route.values():
            assert {"200", "4XX", "5XX"} <= {*operation["responses"]}
            assert operation["summary"] and operation["description"]
    settings_of = document["components"]["schemas"]["ChatRequest"]["properties"]["trimtab"]["properties"]
    assert {"width", "successors", "chunk", "steps", "reward"} <= {*settings_of}
    assert "rewards" in document["components"]["schemas"]["SearchReport"]["properties"]
