"""Made-up requests by the hundred, right and wrong ones, against our own OpenAPI document."""

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
from support.api_server import Scripted, scripted_voice

from thinktune.serve.openai_schema import document
from thinktune.serve.security import Limits
from thinktune.serve.server import make_app

QUICK = settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
LONG = settings(QUICK, max_examples=1500, derandomize=False)
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
]
schema = schemathesis.openapi.from_asgi(
    "/openapi.json", make_app([scripted_voice(Scripted("<think>\nso\n</think>\n\nyes"))], Limits(), None, None)
)


@schema.parametrize()
@QUICK
def test_fuzzed_requests_get_what_the_document_says(case):
    case.call_and_validate(checks=CHECKS)


@pytest.mark.slow
@schema.parametrize()
@LONG
def test_fuzzed_requests_for_long(case):
    case.call_and_validate(checks=CHECKS)


def test_the_document_is_served_and_names_every_address():
    assert set(document("1")["paths"]) == {"/health", "/v1/models", "/v1/models/{model}", "/v1/chat/completions"}
