"""Keys, limits and routes of a running server."""

import asyncio
import json
import socket
from contextlib import ExitStack
from urllib.parse import urlsplit

import pytest
import schemathesis
from starlette.datastructures import Headers

from demur.base.errors import ConfigError
from demur.core.access import Tenant
from demur.engines.fake.backend import FakeBackend
from demur.server.admission.control import AdmissionControl, KeyUsage
from demur.server.app import Service
from demur.server.errors import ApiError
from demur.server.registry import Access
from demur.server.settings import RequestLimits, ServerSettings
from demur.store.policies.folder import read_folder
from tests.server.live_server import (
    ANSWERED,
    KEY,
    OPERATOR_KEY,
    OTHER_KEY,
    engine,
    folder_of,
    policy,
    request,
    serving,
    tenants_file,
)
from tests.waiting import wait_until

OURS = (
    "/v1/chat/completions",
    "/v1/models",
    "/v1/models/{model}",
    "/healthz",
    "/readyz",
    "/metrics",
)
SCHEMA = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
SMALL = RequestLimits(body_bytes=2_000, body_s=0.5, in_flight=4)


@pytest.fixture
def folder(tmp_path):
    return folder_of(tmp_path / "policies", policy(), policy("strict"))


def code(got):
    return got.status_code, got.json()["error"]["code"]


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer nonsense",
        f"Basic {KEY}",
        KEY,
        f"Bearer {KEY}x",
        f"Bearer {KEY[:-1]}",
    ],
)
def test_without_a_right_key_nothing_is_answered(keyed, header):
    headers = {} if header is None else {"authorization": header}
    with keyed.client() as client:
        for got in (
            client.post("/v1/chat/completions", json=request(), headers=headers),
            client.get("/v1/models", headers=headers),
            client.get("/v1/models/demur", headers=headers),
            client.get("/metrics", headers=headers),
        ):
            assert code(got) == (401, "invalid_api_key")
            assert got.headers["www-authenticate"] == "Bearer"
            assert KEY not in got.text


def test_the_key_is_checked_before_the_body_is_read(keyed):
    with keyed.client() as client:
        assert client.post("/v1/chat/completions", content=b"{").status_code == 401


def test_an_expired_key_says_so_to_who_holds_it(folder, tmp_path):
    tenants = tenants_file(tmp_path / "tenants.toml", alice_key="expires = 2020-01-01T00:00:00Z")
    with serving(folder, tenants) as server:
        got = server.chat(key=KEY)
        assert code(got) == (401, "expired_api_key")
        assert "expired" in got.json()["error"]["message"]


def test_a_key_opens_its_tenants_policies_and_no_others(keyed):
    assert keyed.chat(key=KEY).json()["demur"]["policy"] == "default"
    assert keyed.chat(key=OTHER_KEY).json()["demur"]["policy"] == "strict"
    assert code(keyed.chat(key=OTHER_KEY, demur={"policy": "default"})) == (404, "policy_not_found")
    assert code(keyed.chat(key=OTHER_KEY, demur={"thresholds": {"unsupported": 0.9}})) == (
        403,
        "no_overrides",
    )
    with keyed.client(OTHER_KEY) as client:
        assert client.get("/v1/models").json()["data"][0]["demur"]["policies"] == ["strict"]


@pytest.mark.parametrize("stream", [False, True])
def test_scores_are_for_operators(keyed, stream):
    assert "scores" not in keyed.chat(key=KEY, stream=stream).text
    assert "margin" not in keyed.chat(key=KEY, stream=stream).text
    assert "scores" in keyed.chat(key=OPERATOR_KEY, stream=stream).text


def test_metrics_are_for_operators_unless_opened_on_this_machine(keyed, folder, tmp_path):
    with keyed.client(KEY) as client:
        assert code(client.get("/metrics")) == (403, "operators_only")
    with keyed.client(OPERATOR_KEY) as client:
        assert "demur_decisions_total" in client.get("/metrics").text
    with (
        serving(folder, tenants_file(tmp_path / "t.toml"), open_metrics=True) as server,
        server.client() as client,
    ):
        assert client.get("/metrics").status_code == 200
    with pytest.raises(ConfigError, match="open_metrics"):
        ServerSettings(host="0.0.0.0", open_metrics=True)


def test_opened_metrics_answer_to_the_loopback_name_only(folder, tmp_path):
    with (
        serving(folder, tenants_file(tmp_path / "t.toml"), open_metrics=True) as server,
        server.client() as client,
    ):
        for host in ("evil.example", "localhost.evil.example", "10.0.0.1"):
            assert code(client.get("/metrics", headers={"host": host})) == (403, "wrong_host")
            with_key = {"host": host, "authorization": f"Bearer {OPERATOR_KEY}"}
            assert code(client.get("/metrics", headers=with_key)) == (403, "wrong_host")
        assert client.get("/metrics", headers={"host": "localhost:9"}).status_code == 200


def test_health_and_readiness_need_no_key(keyed):
    with keyed.client() as client:
        assert client.get("/healthz").json() == {"status": "ok"}
        assert client.get("/readyz").json() == {"status": "ready"}


def test_a_server_whose_backend_is_down_is_alive_and_not_ready(folder):
    with (
        serving(folder, backend=FakeBackend(engine=engine(), failure="down")) as server,
        server.client() as client,
    ):
        assert client.get("/healthz").status_code == 200
        got = client.get("/readyz")
        assert (got.status_code, got.json()) == (503, {"status": "not ready"})


@pytest.mark.parametrize(
    "path",
    [
        *(
            "/",
            "/docs",
            "/redoc",
            "/openapi.json",
            "/v1",
            "/v1/",
            "/v1/completions",
            "/v1/messages",
            "/invocations",
        ),
        *(
            "/tokenize",
            "/detokenize",
            "/v1/embeddings",
            "/v1/responses",
            "/score",
            "/generative_scoring",
            "/metrics/",
        ),
        *("/v1/chat/completions/", "//v1/chat/completions", "/V1/CHAT/COMPLETIONS"),
        *(
            "/pooling",
            "/v1/audio/transcriptions",
            "/load",
            "/version",
            "/ping",
            "/server_info",
            "/reset_prefix_cache",
        ),
    ],
)
def test_there_are_no_routes_but_ours(local, path):
    with local.client() as client:
        for got in (client.get(path), client.post(path, json=request())):
            assert code(got) in ((404, "not_found"), (404, "model_not_found"))


@pytest.mark.parametrize(
    "method", ["GET", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD", "TRACE", "BREW"]
)
def test_a_route_has_its_own_method_only(local, method):
    with local.client() as client:
        assert client.request(method, "/v1/chat/completions").status_code == 405


def test_every_answer_carries_its_id_and_closed_headers(local):
    with local.client() as client:
        for got in (
            client.get("/healthz"),
            client.get("/nowhere"),
            local.chat(),
            local.chat(stream=True),
        ):
            assert got.headers["x-content-type-options"] == "nosniff"
            assert got.headers["cache-control"] == "no-store"
            assert got.headers["x-request-id"].startswith("req_")
            assert "server" not in got.headers


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""]
)
def test_a_body_of_another_type_is_refused(local, kind):
    with local.client() as client:
        got = client.post(
            "/v1/chat/completions", content=json.dumps(request()), headers={"content-type": kind}
        )
    assert code(got) == (415, "unsupported_media_type")


def test_without_keys_a_web_page_that_calls_this_machine_by_another_name_gets_nothing(local):
    for host in ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.1"):
        assert code(local.chat(headers={"host": host})) == (403, "wrong_host")
    for host in ("localhost", "127.0.0.1:8000", "[::1]:8000", "LOCALHOST:1"):
        assert local.chat(headers={"host": host}).status_code == 200


def test_a_body_over_the_limit_is_refused_with_and_without_its_length(folder):
    with serving(folder, limits=SMALL) as server, server.client() as client:
        body = json.dumps(request("x" * 3_000)).encode()
        headers = {"content-type": "application/json"}
        assert code(client.post("/v1/chat/completions", content=body, headers=headers)) == (
            413,
            "request_too_large",
        )
        pieces = (body[at : at + 100] for at in range(0, len(body), 100))
        assert code(client.post("/v1/chat/completions", content=pieces, headers=headers)) == (
            413,
            "request_too_large",
        )
        assert server.chat().status_code == 200


def test_the_description_is_sound_and_served_only_when_asked_for(folder):
    with serving(folder, describe=True) as server, server.client() as client:
        document = client.get("/openapi.json").json()
    schemathesis.openapi.from_dict(document).validate()
    assert document["components"]["schemas"]["ChatRequest"]["additionalProperties"] is False
    assert set(document["paths"]) == set(OURS)


def raw(url, data):
    """What the server sends back on a bare connection."""
    place = urlsplit(url)
    with socket.create_connection((place.hostname, place.port), timeout=60) as line:
        line.sendall(data)
        return line.recv(65536)


def test_a_body_that_never_comes_is_not_waited_for(folder):
    head = (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: "
        b"application/json\r\n"
    )
    with serving(folder, limits=SMALL) as server:
        answer = raw(server.url, head + b'content-length: 100\r\n\r\n{"model"')
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"connection: close" in answer


@pytest.mark.parametrize(
    "data",
    [
        b"nonsense\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: -5\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: "
        b"chunked\r\n\r\nzz\r\n",
        b"GET /healthz HTTP/1.1\r\nhost: x\r\nlong: " + b"y" * 40_000 + b"\r\n\r\n",
    ],
    ids=["no HTTP", "negative length", "bad chunk", "long header"],
)
def test_what_is_no_http_is_a_400_and_the_server_lives(local, data):
    assert not raw(local.url, data).startswith(b"HTTP/1.1 5")
    assert local.chat().status_code == 200


def test_a_key_has_so_many_requests_a_minute(folder, tmp_path):
    tenants = tenants_file(tmp_path / "tenants.toml", other="requests_per_minute = 3")
    with serving(folder, tenants) as server:
        assert [server.chat(key=OTHER_KEY).status_code for _ in range(5)] == [
            200,
            200,
            200,
            429,
            429,
        ]
        got = server.chat(key=OTHER_KEY)
        assert code(got) == (429, "rate_limit_exceeded")
        assert 0 < int(got.headers["retry-after"]) <= 60
        assert server.chat(key=KEY).status_code == 200


def test_a_rate_is_counted_over_a_sliding_minute(folder):
    now = [0.0]
    access = Access(policies=read_folder(folder))
    registry = Service(ServerSettings(), FakeBackend(engine=engine()), access).state.registry
    admission = AdmissionControl(registry, ServerSettings(), lambda: now[0])
    tenant = Tenant(name="t", policies=("default",), requests_per_minute=2)
    usage = KeyUsage(schemas=1)
    for at, lets_in in (
        (0.0, True),
        (30.0, True),
        (59.9, False),
        (60.0, True),
        (60.1, False),
        (90.0, True),
    ):
        now[0] = at
        if lets_in:
            admission._count_request(usage, tenant)
        else:
            with pytest.raises(ApiError, match="2 requests per minute"):
                admission._count_request(usage, tenant)


def test_a_key_has_so_many_schemas_at_a_time_the_same_one_shares_its_place_and_others_wait(
    folder, monkeypatch
):
    settings = ServerSettings(limits=RequestLimits(schemas=2))
    service = Service(settings, FakeBackend(engine=engine()), Access(policies=read_folder(folder)))
    admission, at_home = service.state.admission, Headers({"host": "localhost"})

    async def scenario():
        with admission.admitted(at_home, service.state.registry.current) as caller:
            held = [admission.schema_slot(caller, digest) for digest in ("one", "two", "one")]
            for slot in held:
                await slot.__aenter__()
            waiting = [
                asyncio.create_task(admission.schema_slot(caller, d).__aenter__())
                for d in ("three", "four")
            ]
            await asyncio.sleep(0)
            assert not any(task.done() for task in waiting)
            waiting[0].cancel()  # its client has gone
            await held[0].__aexit__(None, None, None)
            await asyncio.sleep(0)
            assert not waiting[1].done()  # the other request with the same schema is still here
            await held[2].__aexit__(None, None, None)
            await waiting[1]
            monkeypatch.setattr("demur.server.admission.control.SCHEMA_WAIT_S", 0.0)
            with pytest.raises(ApiError, match="2 different schemas") as told:
                await admission.schema_slot(caller, "five").__aenter__()
            return told.value.status

    assert asyncio.run(scenario()) == 429


@pytest.mark.parametrize(
    "fields", [{"response_format": SCHEMA}, {"tools": [TOOL]}], ids=["schema", "tools"]
)
def test_a_schema_s_place_comes_free_with_its_answer(folder, fields):
    with serving(folder, limits=RequestLimits(schemas=1)) as server:
        assert [server.chat(ANSWERED, **fields).status_code for _ in range(3)] == [200, 200, 200]
        ((usage,),) = [server.service.state.admission._usage.values()]
        wait_until(lambda: not usage.in_use)  # its answer is sent just before
        assert not usage.slots.locked()


def test_a_key_has_so_many_requests_at_a_time_and_a_place_comes_free(folder, tmp_path):
    tenants = tenants_file(tmp_path / "tenants.toml", other="concurrent = 1")
    with serving(folder, tenants, backend=FakeBackend(engine=engine(), delay_s=0.5)) as server:
        client = server.client(OTHER_KEY)
        with (
            client,
            client.stream("POST", "/v1/chat/completions", json=request(stream=True)) as got,
        ):
            pieces = got.iter_text()
            next(pieces)
            assert code(server.chat(key=OTHER_KEY)) == (429, "concurrency_limit_exceeded")
            assert server.chat(key=KEY, max_tokens=1).status_code == 200
        wait_until(lambda: server.chat(key=OTHER_KEY, max_tokens=1).status_code == 200)


def test_all_callers_together_have_so_many_requests_at_a_time(folder, tmp_path):
    with serving(
        folder,
        tenants_file(tmp_path / "t.toml"),
        backend=FakeBackend(engine=engine(), delay_s=5.0),
        limits=SMALL,
    ) as server:
        with server.client(KEY) as client, ExitStack() as open_streams:
            for _ in range(SMALL.in_flight):
                ask = client.stream("POST", "/v1/chat/completions", json=request(stream=True))
                assert open_streams.enter_context(ask).status_code == 200
            assert server.chat(key=KEY).status_code == 503
        server.backend.delay_s = 0.0
        wait_until(lambda: server.chat(ANSWERED, key=KEY).status_code == 200)


def test_a_server_that_others_reach_needs_tenants(folder):
    access = Access(policies=read_folder(folder))
    with pytest.raises(ConfigError, match="without a tenants file"):
        Service(ServerSettings(host="0.0.0.0"), FakeBackend(engine=engine()), access)
