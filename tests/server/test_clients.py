"""Client libraries against a running server, unchanged: OpenAI's own, LangChain's, and Inspect
AI.
"""

import asyncio
import json
import os
import re
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import httpx
import openai
import pytest
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

from demur.server.settings import RequestLimits, ServerSettings
from tests.server.live_server import (
    ANSWERED,
    CANNED,
    KEY,
    REFUSED,
    TEMPLATE,
    folder_of,
    policy,
    serving,
    tenants_file,
)

# Inspect AI wants other versions of packages than our checks are pinned to: it may live in a place
# of its own.
INSPECT = os.environ.get("DEMUR_INSPECT_PYTHON") or (
    sys.executable if find_spec("inspect_ai") else None
)


@pytest.fixture
def client(keyed):
    with openai.OpenAI(
        base_url=f"{keyed.url}/v1",
        api_key=KEY,
        max_retries=0,
        http_client=httpx.Client(trust_env=False),
    ) as made:
        yield made


def said(text):
    return [{"role": "user", "content": text}]


def test_openais_client_reads_answers_and_refusals(client):
    answer = client.chat.completions.create(model="demur", messages=said(ANSWERED))
    assert answer.choices[0].message.content
    assert answer.choices[0].message.refusal is None
    refusal = client.chat.completions.create(model="demur", messages=said(REFUSED))
    assert refusal.choices[0].message.content is None
    assert "hurt someone" in refusal.choices[0].message.refusal
    assert refusal.model_extra["demur"]["category"] == "safety"


@pytest.mark.parametrize(
    ("text", "voice"), [(ANSWERED, "content"), (REFUSED, "refusal"), (TEMPLATE, "refusal")]
)
def test_openais_client_streams_what_it_reads_whole(client, text, voice):
    whole = client.chat.completions.create(model="demur", messages=said(text)).choices[0].message
    chunks = list(client.chat.completions.create(model="demur", messages=said(text), stream=True))
    assert "".join(getattr(c.choices[0].delta, voice) or "" for c in chunks) == getattr(
        whole, voice
    )
    with client.chat.completions.stream(model="demur", messages=said(text)) as stream:
        final = stream.get_final_completion()
    assert getattr(final.choices[0].message, voice) == getattr(whole, voice)
    assert final.choices[0].finish_reason == "stop"
    assert final.model_extra["demur"]["policy"] == "default"


def test_openais_client_may_send_back_what_it_was_given(client):
    first = client.chat.completions.create(model="demur", messages=said(REFUSED)).choices[0].message
    again = client.chat.completions.create(
        model="demur", messages=[*said(REFUSED), first, *said(ANSWERED)]
    )
    assert again.choices[0].message.content


CALL = {
    "index": 0,
    "id": "c1",
    "type": "function",
    "function": {"name": "find_floor", "arguments": "{}"},
}
# as the client dumps an answer
WHOLE = {"audio": None, "function_call": None, "tool_calls": None, "annotations": []}
REPLAYED = {
    "a refusal": {"content": None, "refusal": "No.", **WHOLE},
    "an empty string": {"content": ""},
    "null": {"content": None},
    "nothing": {},
    "an empty list": {"content": []},
    "thoughts": {"content": "Hello.", "reasoning_content": "they greet", "reasoning": "they greet"},
    "a name": {"content": "Hello.", "name": "bot"},
    "no calls": {"content": "Hello.", "refusal": None, "tool_calls": []},
}


@pytest.mark.parametrize("answer", REPLAYED.values(), ids=REPLAYED)
def test_openais_client_may_send_back_any_answer_of_its_past(client, answer):
    past = [*said(ANSWERED), {"role": "assistant", **answer}]
    assert (
        client.chat.completions.create(model="demur", messages=[*past, *said(ANSWERED)])
        .choices[0]
        .message.content
    )


def test_openais_client_may_send_back_tool_calls_with_names_and_places(client):
    turns = [
        *said("Which floor?"),
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [CALL, {**CALL, "index": 1, "id": "c2"}],
        },
        {"role": "tool", "tool_call_id": "c1", "name": "find_floor", "content": "second"},
        {
            "role": "tool",
            "tool_call_id": "c2",
            "name": "find_floor",
            "content": [{"type": "text", "text": "third"}],
        },
    ]
    assert client.chat.completions.create(model="demur", messages=turns).choices[0].message.content


def test_openais_client_may_send_every_note_for_its_own_books(client):
    notes = {
        "prompt_cache_key": "sess-1",
        "safety_identifier": "u-1",
        "service_tier": "auto",
        "store": True,
        "metadata": {"a": "b"},
        "user": "u",
        "parallel_tool_calls": True,
        "extra_body": {"top_logprobs": None, "functions": None, "anything": None},
    }
    parts = [{"type": "text", "text": ANSWERED, "cache_control": {"type": "ephemeral"}}]
    messages = [{"role": "user", "name": "reader_7", "content": parts}]
    assert (
        client.chat.completions.create(model="demur", messages=messages, **notes)
        .choices[0]
        .message.content
    )


def test_openais_client_is_told_that_images_are_not_read(client):
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    with pytest.raises(openai.BadRequestError, match="text only"):
        client.chat.completions.create(
            model="demur", messages=[{"role": "user", "content": [image]}]
        )


def test_openais_client_parses_json_and_sees_that_it_was_refused(client):
    class Reply(BaseModel):
        answer: str

    got = client.chat.completions.parse(
        model="demur", messages=said(ANSWERED), response_format=Reply
    )
    assert got.choices[0].message.parsed.answer
    got = client.chat.completions.parse(
        model="demur", messages=said(TEMPLATE), response_format=Reply
    )
    assert (got.choices[0].message.parsed, got.choices[0].message.refusal) == (None, CANNED)


def test_openais_client_raises_its_own_errors(client, keyed):
    def ask(**fields):
        return client.chat.completions.create(
            **{"model": "demur", "messages": said(ANSWERED), **fields}
        )

    with pytest.raises(openai.NotFoundError):
        ask(model="gpt-5")
    with pytest.raises(openai.BadRequestError) as bad:
        ask(logprobs=True)
    assert (bad.value.param, bad.value.code) == ("logprobs", "unsupported_value")
    with pytest.raises(openai.PermissionDeniedError):
        ask(extra_body={"demur": {"policy": "strict", "thresholds": {"safety": 0.5}}})
    wrong = openai.OpenAI(
        base_url=f"{keyed.url}/v1",
        api_key="x",
        max_retries=0,
        http_client=httpx.Client(trust_env=False),
    )
    with pytest.raises(openai.AuthenticationError), wrong:
        wrong.models.list()
    assert [m.id for m in client.models.list()] == ["demur"] == [client.models.retrieve("demur").id]


def test_openais_asynchronous_client_streams(keyed):
    async def read():
        async with openai.AsyncOpenAI(
            base_url=f"{keyed.url}/v1", api_key=KEY, http_client=httpx.AsyncClient(trust_env=False)
        ) as made:
            stream = await made.chat.completions.create(
                model="demur", messages=said(REFUSED), stream=True
            )
            return "".join([c.choices[0].delta.refusal or "" async for c in stream])

    assert "hurt someone" in asyncio.run(read())


def test_langchain_reads_answers_and_refusals_whole_and_streamed(keyed):
    chat = ChatOpenAI(
        model="demur",
        base_url=f"{keyed.url}/v1",
        api_key=KEY,
        max_retries=0,
        http_client=httpx.Client(trust_env=False),
        stream_usage=True,
    )
    answer = chat.invoke(ANSWERED)
    assert answer.content
    assert answer.usage_metadata["total_tokens"] > 0
    refusal = chat.invoke(REFUSED)
    assert refusal.content == ""
    assert "hurt someone" in refusal.additional_kwargs["refusal"]
    assert "".join(c.content for c in chat.stream(ANSWERED)) == answer.content
    assert "".join(c.content for c in chat.stream(REFUSED)) == ""
    assert chat.invoke([("human", REFUSED), refusal, ("human", ANSWERED)]).content


EVALUATION = """
import json, sys
from inspect_ai import Task, eval
from inspect_ai.dataset import Sample
from inspect_ai.model import GenerateConfig, get_model
from inspect_ai.scorer import includes
from inspect_ai.solver import generate

key, texts = sys.argv[1], sys.argv[4:]
samples = [Sample(input=t, target="x") for t in texts]
task = Task(dataset=samples, solver=generate(), scorer=includes())
for url in sys.argv[2:4]:
    config = GenerateConfig(max_retries=0)
    model = get_model("openai-api/demur/demur", base_url=url, api_key=key, config=config)
    (log,) = eval(task, model=model, display="none", log_dir="logs")
    assert log.status == "success", log.error
    rows = []
    for sample in log.samples:
        choice = sample.output.choices[0]
        details = choice.stop_details
        parts = [c for c in choice.message.content if not isinstance(c, str)]
        refused = any(getattr(c, "refusal", None) for c in parts)
        categories = details and [c.category for c in details.categories]
        rows.append([choice.stop_reason, refused, categories])
    print(json.dumps(rows))
"""


@pytest.mark.slow
@pytest.mark.skipif(
    INSPECT is None, reason="inspect_ai is not installed here, nor DEMUR_INSPECT_PYTHON set"
)
def test_inspect_ai_counts_refusals_and_sees_their_categories(tmp_path):
    folder = folder_of(tmp_path / "policies", policy(), policy("strict"))
    tenants = tenants_file(tmp_path / "tenants.toml")
    with (
        serving(folder, tenants) as one,
        serving(folder, tenants, refusal_finish="content_filter") as other,
    ):
        done = subprocess.run(
            [
                str(INSPECT),
                "-c",
                EVALUATION,
                KEY,
                f"{one.url}/v1",
                f"{other.url}/v1",
                ANSWERED,
                REFUSED,
                TEMPLATE,
            ],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
            timeout=120,
        )
    assert done.returncode == 0, done.stderr
    seen = [json.loads(line) for line in done.stdout.splitlines()[-2:]]
    for rows, finish in zip(seen, ("stop", "content_filter"), strict=True):
        assert rows == [
            ["stop", False, None],
            [finish, True, ["safety"]],
            [finish, True, ["humanizing"]],
        ]


def test_the_example_in_the_docs_runs(tmp_path, capsys):
    page = (Path(__file__).parents[2] / "docs" / "serve.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```py\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    with serving(folder_of(tmp_path, policy(limits=None)), model="a") as server:
        exec(code.replace("http://127.0.0.1:8000", server.url), {})
    assert CANNED in capsys.readouterr().out


def test_the_settings_in_the_docs_are_the_defaults():
    page = (Path(__file__).parents[2] / "docs" / "serve.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"^```toml\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    table = tomllib.loads(text)
    server = {name: tuple(v) if isinstance(v, list) else v for name, v in table["server"].items()}
    assert ServerSettings(
        **{**server, "limits": RequestLimits(**table["limits"])}
    ) == ServerSettings(model="a")
    assert set(table["limits"]) == set(RequestLimits.__dataclass_fields__)
    assert set(table["server"]) == set(ServerSettings.__dataclass_fields__) - {
        "limits",
        "default_policy",
    }
