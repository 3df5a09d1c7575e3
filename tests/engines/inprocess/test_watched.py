"""A model that is stuck, or fails, is noticed, said and replaced, in front of a real server too."""

import asyncio
import json
import threading
import time
from contextlib import asynccontextmanager, contextmanager, suppress

import httpx
import pytest

from demur.core.errors import BackendDown
from demur.engines import hf_worker
from demur.engines.hf import HfEngine
from demur.engines.hf_serve import HfBackend
from demur.engines.hf_worker import Limits
from demur.engines.inprocess.watched import twin
from tests.engines.test_hf_serve import LONG, TEXTS, TOKENS, always, ask, whole
from tests.server.house import folder_of, wait_until
from tests.server.house import serving as served

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


@pytest.fixture
def engine(checkpoints):
    return HfEngine(model=checkpoints["llama"], tokens=TOKENS, max_new_tokens=20)


@contextmanager
def stuck(engine):
    """While the block runs, a forward pass of this engine's own tree of modules does not come back."""
    release = threading.Event()
    handle = engine.network.register_forward_pre_hook(lambda *_: release.wait(60) and None)
    try:
        yield
    finally:
        handle.remove()
        release.set()


@asynccontextmanager
async def serving(engine, **limits):
    backend = HfBackend(engine, Limits(**{"step_s": 0.5, **limits}))
    try:
        yield backend
    finally:
        await backend.close()


async def until_ready(backend):
    async with asyncio.timeout(20):
        while True:
            with suppress(BackendDown):
                return await backend.ready()
            await asyncio.sleep(0.05)


def test_a_twin_runs_on_the_same_weights_and_knows_nothing_of_the_others_hooks(engine):
    other = twin(engine)
    pairs = list(zip(engine.network.parameters(), other.network.parameters(), strict=True))
    assert all(a is b for a, b in pairs)
    modules = zip(engine.network.modules(), other.network.modules(), strict=True)
    assert all(a is not b for a, b in modules)
    asked = [ask(t, always(engine, 0)).messages for t in TEXTS]
    with pytest.raises(RuntimeError), broken(engine):
        engine.logp(asked)
    with broken(engine):
        alone = other.logp(asked)
    assert (alone == engine.logp(asked)).all()


@contextmanager
def broken(engine):
    def fail(*_):
        raise RuntimeError("out of memory")

    handle = engine.network.register_forward_pre_hook(fail)
    try:
        yield
    finally:
        handle.remove()


@pytest.mark.parametrize("trouble", [stuck, broken])
def test_a_step_that_does_not_end_or_fails_ends_its_streams_and_the_next_request_is_answered(engine, trouble):
    async def scenario():
        async with serving(engine) as backend:
            alone = (await whole(backend, ask(TEXTS[2], always(engine, 0))))[1]
            replies = [await backend.open(ask(t, always(engine, 0), LONG)) for t in TEXTS[:3]]
            await anext(replies[0].parts)
            start = time.monotonic()
            with trouble(engine):
                waiting = asyncio.create_task(backend.open(ask(TEXTS[3], always(engine, 0))))
                for reply in replies:
                    with pytest.raises(BackendDown):
                        _ = [part async for part in reply.parts]
                with suppress(BackendDown):
                    await waiting
                spent_s = time.monotonic() - start
                await until_ready(backend)
                again = (await whole(backend, ask(TEXTS[2], always(engine, 0))))[1]
                assert backend.writing == 0
            await asyncio.sleep(0.1)  # the lost thread comes back, and nobody hears it
            once_more = (await whole(backend, ask(TEXTS[2], always(engine, 0))))[1]
            return alone, again, once_more, spent_s

    alone, again, once_more, spent_s = asyncio.run(scenario())
    assert alone == again == once_more
    assert spent_s < 10.0


def test_it_is_not_ready_while_it_is_stuck_with_nobody_being_answered(engine):
    async def scenario():
        async with serving(engine, restarts=0) as backend:
            await backend.ready()
            with stuck(engine):
                with pytest.raises(BackendDown):
                    await backend.ready()
                with pytest.raises(BackendDown, match=r"did not end within 0.5 s|does not end"):
                    await backend.ready()

    asyncio.run(scenario())


def test_after_so_many_tries_it_stays_down_and_says_why(engine, caplog):
    async def scenario():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("demur.engines.inprocess.watched.twin", lambda engine: engine)  # the fault is in all
            async with serving(engine, restarts=2) as backend:
                with broken(engine):
                    for _ in range(3):
                        with suppress(BackendDown):
                            await until_ready_once(backend)
                        await asyncio.sleep(0.4)
                    with pytest.raises(BackendDown, match="out of memory"):
                        await backend.ready()
                with pytest.raises(BackendDown, match="out of memory"):
                    await backend.open(ask(TEXTS[0], always(engine, 0)))

    async def until_ready_once(backend):
        await backend.ready()

    asyncio.run(scenario())
    assert sum("started again on the same weights" in m for m in caplog.messages) == 2
    assert sum("given up" in m for m in caplog.messages) == 1


def test_the_server_ends_though_the_model_does_not(engine, monkeypatch):
    monkeypatch.setattr(hf_worker, "STOP_S", 0.2)

    async def scenario():
        backend = HfBackend(engine, Limits())
        with stuck(engine):
            waiting = asyncio.create_task(backend.open(ask(TEXTS[0], always(engine, 0))))
            await asyncio.sleep(0.1)
            start = time.monotonic()
            await backend.close()
            with pytest.raises(BackendDown, match="shut down"):
                await waiting
            return time.monotonic() - start

    assert asyncio.run(scenario()) < 5.0


def test_streams_end_with_an_error_event_and_readiness_says_so_until_it_is_true_again(engine, tmp_path):
    policy = always(engine, 0)
    backend = HfBackend(engine, Limits(step_s=2.0))
    body = {"model": "demur", "messages": [{"role": "user", "content": TEXTS[0]}], "stream": True, "max_tokens": 150}
    with served(folder_of(tmp_path, policy), backend=backend) as server, server.client() as client:
        assert client.get("/readyz").status_code == 200
        with client.stream("POST", "/v1/chat/completions", json=body) as got:
            lines = got.iter_lines()
            next(line for line in lines if line.startswith("data:"))
            with stuck(engine):
                events = [line for line in lines if line.startswith("data:")]
                assert json.loads(events[-1][5:])["error"]["code"] == "model_unavailable"
                assert "[DONE]" not in "".join(events)
                wait_until(lambda: client.get("/readyz").status_code == 200, seconds=20)
                answered = client.post("/v1/chat/completions", json={**body, "stream": False}).json()
                assert answered["choices"][0]["message"]["content"]
        with stuck(engine):
            assert httpx.get(server.url + "/readyz", timeout=20).status_code == 200  # the old tree is out of use
