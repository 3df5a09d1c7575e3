"""Whatever fits the OpenAPI document, or nearly does: the server answers with a status that the
document names.
"""

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import response_schema_conformance, status_code_conformance

from demur.server.openapi import openapi_document
from tests.server.live_server import OPERATOR_KEY, folder_of, policy, serving, tenants_file

SCHEMA = schemathesis.openapi.from_dict(openapi_document())


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    root = tmp_path_factory.mktemp("described")
    plenty = "requests_per_minute = 1000000\nmay_override = true"
    folder = folder_of(
        root / "policies", policy(limits=(0.3, 0.9)), policy("strict", 0.01, locked=True)
    )
    with serving(
        folder, tenants_file(root / "tenants.toml", operator=plenty), model="demur"
    ) as made:
        yield made


@SCHEMA.parametrize()
@settings(
    max_examples=100,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
def test_no_request_that_the_document_describes_breaks_the_server(case, server):
    key = {"authorization": f"Bearer {OPERATOR_KEY}"}
    # past the first check of all: otherwise no random name ever would be
    if isinstance(case.body, dict):
        case.body["model"] = "demur"
    case.call_and_validate(
        base_url=server.url,
        headers=key,
        checks=[not_a_server_error, status_code_conformance, response_schema_conformance],
    )
