"""What the log says of requests, and what it never says."""

import json
import logging

import pytest

from demur.server.monitoring.log import JsonLines, log_crash
from tests.server.live_server import CANNED, KEY, OPERATOR_KEY, REFUSED, TEMPLATE
from tests.waiting import wait_until


def lines(caplog):
    return [json.loads(JsonLines().format(r)) for r in caplog.records]


def test_a_request_is_one_line_with_who_what_and_how_long(keyed, caplog):
    caplog.set_level(logging.INFO)
    got = keyed.chat(REFUSED, key=KEY)
    wait_until(lambda: any(line["event"] == "request" for line in lines(caplog)))
    (line,) = [line for line in lines(caplog) if line["event"] == "request"]
    assert line["request_id"] == got.headers["x-request-id"]
    assert (line["tenant"], line["key"], line["status"]) == ("alice", "test", 200)
    assert (line["policy"], line["decision"], line["category"]) == ("default", "refuse", "safety")
    assert line["policy_hash"] == got.json()["demur"]["policy_hash"]
    assert 0 < line["decision_s"] <= line["total_s"]
    assert line["completion_tokens"] == got.json()["usage"]["completion_tokens"]


def test_neither_keys_nor_what_was_said_are_ever_logged(keyed, caplog):
    caplog.set_level(logging.DEBUG)
    secret = "the weather in Timbuktu"
    for key in (KEY, OPERATOR_KEY, "demur_wrong", None):
        keyed.chat(f"{secret} is about safety", key=key)
        keyed.chat(TEMPLATE, key=key, stream=True)
        keyed.chat(key=key, user=secret, tools=[{"type": secret}])
        keyed.chat(key=key, demur={"policy": secret})
    text = json.dumps(lines(caplog))
    for word in (secret, KEY, OPERATOR_KEY, "demur_wrong", "hurt someone", CANNED):
        assert word not in text


def test_a_bug_is_logged_by_its_place_and_not_by_its_message(caplog):
    try:
        raise ValueError("the weather in Timbuktu")
    except ValueError as e:
        log_crash(e, request_id="req_1")
    (line,) = lines(caplog)
    assert (line["event"], line["error"], line["request_id"]) == ("crash", "ValueError", "req_1")
    assert "test_log.py" in line["frames"][-1]
    assert "Timbuktu" not in json.dumps(line)


@pytest.mark.parametrize("text", ["two\nlines", "ünïcode", '"quotes"'])
def test_a_record_is_one_line_of_json(text):
    record = logging.LogRecord("x", logging.INFO, "f", 1, text, (), None)
    formatted = JsonLines().format(record)
    assert "\n" not in formatted
    assert json.loads(formatted)["event"] == text
