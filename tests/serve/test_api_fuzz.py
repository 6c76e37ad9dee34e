"""Generated requests, valid and invalid ones, held against our own OpenAPI document."""

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)
from support.api_server import ScriptedBackend, scripted_model

from thinktune.http import Access, Limits
from thinktune.serve import make_app

QUICK = settings(max_examples=2, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
LONG = settings(QUICK, max_examples=1500, derandomize=False)
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
]
app = make_app([scripted_model(ScriptedBackend("<think>\nso\n</think>\n\nyes"))], Limits(), Access(hosts=None))
schema = schemathesis.openapi.from_asgi("/openapi.json", app)


@schema.parametrize()
@QUICK
def test_fuzzed_requests_get_the_documented_responses(case):
    case.call_and_validate(checks=CHECKS)


@pytest.mark.slow
@schema.parametrize()
@LONG
def test_fuzzed_requests_for_long(case):
    case.call_and_validate(checks=CHECKS)


def test_the_document_names_every_address_and_only_what_we_send():
    document = schema.raw_schema
    assert {path: set(operations) for path, operations in document["paths"].items()} == {
        "/health": {"get"},
        "/v1/models": {"get"},
        "/v1/models/{model}": {"get"},
        "/v1/chat/completions": {"post"},
        "/v1/completions": {"post"},
        "/v1/responses": {"post"},
        "/version": {"get"},
        "/metrics": {"get"},
        "/v1/messages": {"post"},
        "/v1/messages/count_tokens": {"post"},
        "/api/chat": {"post"},
        "/api/generate": {"post"},
        "/api/show": {"post"},
        "/api/tags": {"get"},
        "/api/version": {"get"},
        "/v1/feedback": {"get"},
        "/v1/feedback/rows": {"post"},
        "/v1/feedback/votes": {"post"},
    }
    refusals = {"400", "401", "403", "404", "405", "408", "413", "415", "421", "429", "500", "502", "504"}
    for operations in document["paths"].values():
        for operation in operations.values():
            assert set(operation["responses"]) == {"200", *refusals}
    assert document["security"] == [{}, {"key": []}]  # a key is asked for only where the server has one
    assert not {"HTTPValidationError", "ValidationError"} & set(document["components"]["schemas"])
