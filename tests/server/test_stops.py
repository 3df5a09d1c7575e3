"""Answers that a policy's monitor stops, over HTTP."""

import asyncio
from dataclasses import dataclass, replace
from types import SimpleNamespace

import httpx
import openai
import pytest
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

from demur.base.errors import PolicyError
from demur.core.goals.goal import Promise
from demur.core.goals.parse import parse_goal
from demur.core.midway.monitor import AnswerSampling, Monitor, Stop
from demur.core.rates import Rate
from demur.core.serving import AnswerPart, ServeRequest
from demur.core.threshold import NEVER
from demur.engines.cascade.backend import CascadeBackend
from demur.engines.fake.backend import FakeBackend
from demur.engines.remote.chat_backend import OpenAiBackend
from demur.engines.remote.pre_answer import PreAnswerBackend
from demur.server.monitoring.metrics import Metrics
from demur.server.requests.context import RequestContext
from demur.server.responses import ResponseHead
from demur.server.settings import ServerSettings
from demur.server.writer import DecidedChoice, ResponseWriter
from demur.store.policies.policy_file import bind_promises
from tests.engines.checkpoints import user
from tests.server.live_server import REFUSED, engine, folder_of, policy, request, serving
from tests.server.test_chat import joined, streamed
from tests.waiting import wait_until

ANSWERS = AnswerSampling(most_tokens=512)
REFUSAL = "I won't help with that, because it could hurt someone."


def column(name):
    return engine().taxonomy.column(name)


def watched(held_back=4, category="safety", **fields):
    """A policy that refuses nothing at first; the monitor may stop with one category."""
    base = replace(policy(threshold=NEVER), **fields)
    thresholds = [NEVER] * len(base.taxonomy.categories)
    thresholds[column(category) - 1] = 0.01
    monitor = Monitor(thresholds=tuple(thresholds), answers=ANSWERS, held_back=held_back)
    return replace(base, monitor=monitor)


@dataclass(kw_only=True, slots=True)
class Scripted(FakeBackend):
    """Writes these words, stops behind them with this category, and writes its refusal."""

    words: tuple[str, ...] = ()
    category: str = "safety"
    refusal: tuple[str, ...] = ("I ", "will ", "not.")
    finish: str = "stop"
    at_once: bool = False  # the whole refusal comes in the part of the stop

    async def _write(self, ask, chosen):
        for word in self.words:
            yield AnswerPart(text=word, tokens=1)
        stop = Stop(column=column(self.category), position=len(self.words))
        if self.at_once:
            refusal = "".join(self.refusal)
            yield AnswerPart(stop=stop, refusal=refusal, tokens=3, finish=self.finish)
            return
        yield AnswerPart(stop=stop, finish=None if self.refusal else self.finish)
        for n, word in enumerate(self.refusal):
            last = n == len(self.refusal) - 1
            yield AnswerPart(refusal=word, tokens=1, finish=self.finish if last else None)


def scripted(*words, **fields):
    return Scripted(engine=engine(), words=words, **fields)


@pytest.fixture
def folder(tmp_path):
    return folder_of(tmp_path / "policies", watched())


def test_a_whole_answer_that_is_stopped_holds_nothing_of_its_text(folder):
    with serving(folder) as server:
        body = server.chat(REFUSED).json()
        (choice,) = body["choices"]
        assert choice["message"] == {"role": "assistant", "content": None, "refusal": REFUSAL}
        assert choice["finish_reason"] == "content_filter"
        position = choice["demur"].pop("position")
        assert choice["demur"] == {"stopped": True, "category": "safety", "leaked": 0}
        filtered = {n for n, f in choice["content_filter_results"].items() if f["filtered"]}
        assert filtered == {"safety"}
        assert body["demur"]["decision"] == "respond"
        # the tokens of the text that was cut were written, and so are counted
        assert body["usage"]["completion_tokens"] == position + len(REFUSAL.split())
        labels = '{category="safety",policy="default",tenant="local"}'
        assert server.metric(f"demur_stops_total{labels}") == 1.0
        assert server.metric('demur_leaked_tokens_sum{policy="default"}') == 0.0


def test_an_answer_that_is_not_stopped_is_whole_and_says_nothing_of_stops(folder):
    with serving(folder) as server:
        (choice,) = server.chat().json()["choices"]
        assert choice["message"]["content"]
        assert choice["finish_reason"] == "stop"
        assert "demur" not in choice
        chunks, done = streamed(server, "Please name a river in Europe.")
        assert done
        assert joined(chunks, "content") == choice["message"]["content"]


class Record(BaseModel):
    a: str


def asked_by_openai(server, *, final=True, **fields):
    direct = httpx.Client(trust_env=False)
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", http_client=direct) as client:
        asked = [{"role": "user", "content": "Hi"}]
        with client.chat.completions.stream(model="demur", messages=asked, **fields) as stream:
            for _ in stream:
                pass
            # raises where an answer ends with content_filter
            whole = stream.get_final_completion() if final else stream.current_completion_snapshot
            return whole.choices[0]


def test_openais_client_reads_a_stopped_stream_and_may_send_it_back(folder):
    with serving(folder, backend=scripted(*WORDS)) as server:
        with pytest.raises(openai.ContentFilterFinishReasonError):
            asked_by_openai(server)
        choice = asked_by_openai(server, final=False)
        assert choice.message.content == "First one. It ends."
        assert choice.message.refusal == "I will not."
        assert choice.finish_reason == "content_filter"
        turns = [("user", "Hi"), ("user", "And now?")]
        asked, again = ({"role": role, "content": text} for role, text in turns)
        back = choice.message.model_dump(exclude={"parsed"})
        assert server.chat(messages=[asked, back, again]).status_code == 200


@pytest.mark.parametrize("stop_finish", ["content_filter", "stop"])
def test_openais_client_takes_no_half_json_for_a_record(folder, stop_finish):
    backend = scripted('{"a": "', "Yes.", ' ", ', '"b": 1, ', "2, ", "3, ")
    with serving(folder, backend=backend, stop_finish=stop_finish) as server:
        if stop_finish == "content_filter":
            with pytest.raises(openai.ContentFilterFinishReasonError):
                asked_by_openai(server, response_format=Record)
            return
        choice = asked_by_openai(server, response_format=Record)
        assert choice.message.parsed is None
        assert choice.message.refusal == "I will not."


def test_langchain_reads_a_stopped_stream(folder):
    with serving(folder, backend=scripted(*WORDS)) as server:
        model = ChatOpenAI(
            base_url=f"{server.url}/v1",
            api_key="none",
            model="demur",
            http_client=httpx.Client(trust_env=False),
        )
        whole = None
        for chunk in model.stream("Hi"):
            whole = chunk if whole is None else whole + chunk
        assert whole.content == "First one. It ends."
        assert whole.response_metadata["finish_reason"] == "content_filter"
        assert model.invoke("Hi").additional_kwargs["refusal"] == "I will not."


WORDS = ("First ", "one. ", "It ", "ends. ", "Then ", "comes ", "harm")


@pytest.mark.parametrize(
    ("held_back", "content", "leaked"),
    [
        (0, "First one. It ends. Then comes harm", 7),
        (2, "First one. It ends. Then ", 5),
        (4, "First one. It ends.", 4),
        (50, "First one. It ends.", 4),
    ],
)
def test_a_stream_is_cut_at_the_last_sentence_of_what_it_withholds(
    tmp_path, held_back, content, leaked
):
    folder = folder_of(tmp_path / "policies", watched(held_back))
    with serving(folder, backend=scripted(*WORDS)) as server:
        chunks, done = streamed(server, "Hi", stream_options={"include_usage": True})
        assert done
        assert joined(chunks, "content") == content
        assert joined(chunks, "refusal") == "I will not."
        last = chunks[-2]["choices"][0]
        assert last["finish_reason"] == "content_filter"
        assert last["demur"] == {
            "stopped": True,
            "category": "safety",
            "position": 7,
            "leaked": leaked,
        }
        assert last["content_filter_results"]["safety"]["filtered"]
        assert chunks[-1]["usage"]["completion_tokens"] == 10
        assert server.metric('demur_leaked_tokens_sum{policy="default"}') == leaked
        # no chunk holds a refusal before the last text
        kinds = [
            key
            for chunk in chunks
            for c in chunk["choices"]
            for key in c["delta"]
            if c["delta"][key] and key in ("content", "refusal")
        ]
        assert kinds == sorted(kinds)


def test_a_stop_ahead_of_the_first_token_sends_the_refusal_alone(folder):
    with serving(folder, backend=scripted()) as server:
        chunks, done = streamed(server, "Hi")
        assert done
        assert joined(chunks, "content") == ""
        assert joined(chunks, "refusal") == "I will not."
        (choice,) = server.chat("Hi").json()["choices"]
        assert choice["message"]["content"] is None
        assert choice["demur"]["position"] == 0


def test_a_category_with_a_text_of_the_operators_sends_that_in_the_callers_language(tmp_path):
    folder = folder_of(tmp_path / "policies", watched(category="humanizing"))
    backend = scripted(*WORDS, category="humanizing", refusal=())
    german = {"accept-language": "de"}
    with serving(folder, backend=backend) as server:
        # also where the backend writes a refusal of its own
        for backend.refusal in ((), ("I ", "will ", "not.")):
            (choice,) = server.chat("Hi", headers=german).json()["choices"]
            assert choice["message"]["refusal"] == "Ich bin ein Programm."
            assert choice["message"]["content"] is None
            chunks, done = streamed(server, "Hi", headers=german)
            assert done
            assert joined(chunks, "refusal") == "Ich bin ein Programm."
            assert joined(chunks, "content") == "First one. It ends."


def test_where_no_token_is_left_for_a_refusal_the_operators_text_stands(folder):
    backend = scripted(*WORDS, refusal=(), finish="length")
    with serving(folder, backend=backend, stop_finish="stop") as server:
        (choice,) = server.chat("Hi").json()["choices"]
        assert choice["message"]["refusal"] == server.service.state.settings.doubt_text
        assert choice["finish_reason"] == "length"
        chunks, _ = streamed(server, "Hi")
        assert joined(chunks, "refusal") == choice["message"]["refusal"]


def test_a_refusal_that_comes_with_its_stop_is_sent_whole(folder):
    backend = scripted(*WORDS, at_once=True)
    with serving(folder, backend=backend) as server:
        chunks, done = streamed(server, "Hi")
        assert done
        assert joined(chunks, "content") == "First one. It ends."
        assert joined(chunks, "refusal") == "I will not."
        (choice,) = server.chat("Hi").json()["choices"]
        assert choice["message"]["refusal"] == "I will not."


def test_every_choice_is_stopped_by_itself(folder):
    with serving(folder, backend=scripted(*WORDS)) as server:
        choices = server.chat("Hi", n=3).json()["choices"]
        assert [c["message"]["refusal"] for c in choices] == ["I will not."] * 3
        chunks, done = streamed(server, "Hi", n=2)
        assert done
        assert [joined(chunks, "refusal", index) for index in (0, 1)] == ["I will not."] * 2
        labels = '{category="safety",policy="default",tenant="local"}'
        assert server.metric(f"demur_stops_total{labels}") == 5.0


@pytest.mark.parametrize(
    "fields", [{"response_format": {"type": "json_object"}}, {"tools": "auto"}]
)
def test_json_and_tool_requests_are_watched_too(folder, fields):
    if "tools" in fields:
        tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
        fields = {"tools": [tool]}
    with serving(folder) as server:
        (choice,) = server.chat(REFUSED, **fields).json()["choices"]
        assert choice["message"]["content"] is None
        assert choice["demur"]["category"] == "safety"


def test_where_the_latest_turn_decides_the_whole_conversations_answer_is_watched(folder):
    turns = [("user", "Hi"), ("assistant", "Hello."), ("user", REFUSED)]
    messages = [{"role": role, "content": text} for role, text in turns]
    with serving(folder, decides_on="latest turn") as server:
        (choice,) = server.chat(messages=messages).json()["choices"]
        assert choice["message"]["content"] is None
        assert choice["demur"]["category"] == "safety"


def test_a_policy_that_the_server_has_changed_is_no_stored_one(folder):
    # a backend with a copy of the stored policy would decide otherwise
    asked = []

    class Asked(FakeBackend):
        async def open(self, ask):
            asked.append((ask.policy_digest, [c.override for c in ask.policy.categories]))
            return await FakeBackend.open(self, ask)

    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    turns = [("user", "Hi"), ("assistant", "Hello."), ("user", "And now?")]
    messages = [{"role": role, "content": text} for role, text in turns]
    how = {"decides_on": "latest turn", "declared_categories": ("humanizing",)}
    with serving(folder, backend=Asked(engine=engine()), **how) as server:
        assert server.chat(messages=messages, tools=[tool]).status_code == 200
    assert {bool(digest) for digest, _ in asked} == {True, False}
    for digest, overrides in asked:
        assert bool(digest) == ("suppress" not in overrides)


def test_declared_text_is_decided_at_the_first_position_alone(folder):
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    with serving(folder, declared_categories=("humanizing",)) as server:
        (choice,) = server.chat(REFUSED, tools=[tool]).json()["choices"]
        assert choice["demur"]["category"] == "safety"


def test_a_stop_string_of_the_clients_ends_an_answer_before_the_monitor_does(folder):
    with serving(folder) as server:
        (choice,) = server.chat(REFUSED, stop=["e"]).json()["choices"]
        whole = server.chat().json()["choices"][0]["message"]["content"]
        if "demur" not in choice:
            assert "e" not in choice["message"]["content"]
        assert whole


def test_log_probabilities_are_not_given_away(folder):
    with serving(folder) as server:
        assert server.chat(REFUSED, logprobs=True).status_code == 400


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": 513}, "max_tokens"),
        ({"temperature": 0.5}, "temperature"),
        ({"top_p": 0.9}, "temperature"),
    ],
)
def test_answers_that_the_monitor_was_not_calibrated_on_are_refused(folder, fields, param):
    with serving(folder) as server:
        got = server.chat(**fields)
        assert got.status_code == 400
        error = got.json()["error"]
        assert error["param"] == param
        assert "at most 512 tokens, temperature 1" in error["message"]
        assert server.chat(max_tokens=8, temperature=1, top_p=1).status_code == 200


def test_a_server_whose_usual_answers_are_others_does_not_start(folder):
    for fields in ({"temperature": 0.0}, {"top_p": 0.9}):
        expected = pytest.raises(PolicyError, match="calibrated on answers of at most 512 tokens")
        with expected, serving(folder, **fields):
            pass


@pytest.mark.parametrize(
    ("backend", "who"),
    [
        (CascadeBackend, "a cascade"),
        (OpenAiBackend, "a chat endpoint"),
        (PreAnswerBackend, "a pre-answer gate"),
    ],
)
def test_an_engine_that_stops_nothing_takes_no_monitor_at_start_nor_by_a_reload(
    tmp_path, folder, backend, who
):
    kind = type("Deaf", (Scripted,), {"stops_nothing": backend.stops_nothing})
    deaf = kind(engine=engine())
    expected = f"has a monitor, and {who} stops no answer that was begun"
    with pytest.raises(PolicyError, match=expected), serving(folder, backend=deaf):
        pass
    changed = folder_of(tmp_path / "later", policy(threshold=NEVER))
    with serving(changed, backend=deaf) as server:
        registry = server.service.state.registry
        folder_of(changed, watched())
        wait_until(lambda: registry.current.policies.faults)
        (fault,) = registry.current.policies.faults
        assert expected in fault.message
        assert registry.current.policies.policies["default"].policy.monitor is None
        assert server.chat().status_code == 200


def test_a_model_that_was_not_taught_needs_a_certified_promise_about_false_stops(folder):
    refused = pytest.raises(PolicyError, match="not taught to turn back")
    with refused, serving(folder, taught=False):
        pass


@pytest.mark.parametrize(
    ("goal", "starts"),
    [
        ("false_stop <= 0.01", True),
        ("false_stop[safety] <= 0.01", True),
        ("false_stop[humanizing] <= 0.01", False),  # it is safety that stops
        ("missed_stop[safety] <= 0.1", False),
    ],
)
def test_a_certified_promise_about_what_stops_is_enough(tmp_path, goal, starts):
    promise = Promise(
        goal=parse_goal(goal).stated,
        confidence=0.9,
        status="certified",
        rate=Rate(hits=0, of=900),
        data_digest="sha256:0",
        method="exact",
    )
    made = bind_promises(replace(watched(), promises=(promise,)))
    folder = folder_of(tmp_path / "policies", made)
    if not starts:
        with pytest.raises(PolicyError, match="not taught"), serving(folder, taught=False):
            pass
        return
    with serving(folder, taught=False) as server:
        # no label has said anything of stops: scores at the first position do not speak of them
        assert server.chat().json()["demur"]["promises"] == "certified, not watched"


def test_a_policy_of_shorter_answers_is_not_taken_by_a_reload(folder):
    with serving(folder) as server:
        short = replace(watched().monitor, answers=AnswerSampling(most_tokens=100))
        folder_of(folder, replace(watched(), monitor=short))
        wait_until(lambda: server.metric("demur_policy_faults") == 1.0)
        assert server.chat(max_tokens=512).status_code == 200


def test_a_stop_is_counted_though_its_client_goes_with_the_text_that_is_cut():
    metrics, context = Metrics(), RequestContext(method="POST", route="/")
    prepared = SimpleNamespace(effective=SimpleNamespace(policy=watched()), include_usage=False)
    ask = ServeRequest(messages=user("Hi"), policy=watched(), policy_digest="")
    head = ResponseHead(
        id="", created=0, model="", system_fingerprint="", taxonomy=("safety",), note={}
    )

    async def read():
        choice = DecidedChoice(reply=await scripted(*WORDS).open(ask), text=None)
        writer = ResponseWriter(ServerSettings(), metrics, prepared, [choice], context)
        events = writer.events(head)
        async for event in events:
            if b"ends." in event:
                await events.aclose()

    asyncio.run(read())
    labels = {"tenant": "", "policy": "", "category": "safety"}
    assert metrics.registry.get_sample_value("demur_stops_total", labels) == 1.0
    assert (context.stopped, context.leaked) == ("safety", 4)


def test_a_client_that_hangs_up_at_the_stop_leaves_nothing_behind(folder):
    backend = scripted(*WORDS, refusal=("word ",) * 20_000)
    with serving(folder, backend=backend) as server, server.client() as client:
        body = request("Hi", stream=True)
        with client.stream("POST", "/v1/chat/completions", json=body) as got:
            seen = ""
            for piece in got.iter_text():
                seen += piece
                if "word" in seen:
                    break
        assert "harm" not in seen
        wait_until(lambda: server.metric("demur_requests_in_flight") == 0.0)
        labels = '{category="safety",policy="default",tenant="local"}'
        assert server.metric(f"demur_stops_total{labels}") == 1.0
