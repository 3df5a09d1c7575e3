"""A model that is stuck, or fails, is noticed, said and replaced, in front of a real server too."""

import asyncio
import json
import threading
from contextlib import asynccontextmanager, contextmanager, suppress

import httpx
import pytest

from demur.base.errors import BackendDown
from demur.engines.hf.engine import HfEngine
from demur.engines.inprocess import worker
from demur.engines.inprocess.backend import HfBackend
from demur.engines.inprocess.limits import BackendLimits
from demur.engines.inprocess.supervised import replica
from tests.engines.inprocess.test_backend import LONG, TEXTS, TOKENS, always, ask, whole
from tests.server.live_server import folder_of
from tests.server.live_server import serving as served
from tests.waiting import settled, wait_until

STEP_S = 2.0  # far more than a step of this model takes on a slow machine

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


@pytest.fixture
def engine(checkpoints):
    return HfEngine(model=checkpoints["llama"], tokens=TOKENS, max_new_tokens=20)


@contextmanager
def stuck(engine):
    """While the block runs, a forward pass of this engine's own tree of modules does not come back.

    Gives an event: one is held.
    """
    entered, release = threading.Event(), threading.Event()

    def hold(*_):
        entered.set()
        release.wait(300)

    handle = engine.network.register_forward_pre_hook(hold)
    try:
        yield entered
    finally:
        handle.remove()
        release.set()


@asynccontextmanager
async def serving(engine, **limits):
    backend = HfBackend(engine, BackendLimits(**{"step_s": STEP_S, **limits}))
    try:
        yield backend
    finally:
        await backend.close()


def workers():
    return [thread for thread in threading.enumerate() if thread.name == "demur-model"]


async def until_ready(backend):
    async with asyncio.timeout(60):
        while True:
            with suppress(BackendDown):
                return await backend.ready()
            await asyncio.sleep(0.05)


def test_a_twin_runs_on_the_same_weights_and_knows_nothing_of_the_others_hooks(engine):
    other = replica(engine)
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
def test_a_step_that_does_not_end_or_fails_ends_its_streams_and_the_next_request_is_answered(
    engine, trouble
):
    async def scenario():
        async with serving(engine) as backend:
            alone = (await whole(backend, ask(TEXTS[2], always(engine, 0))))[1]
            replies = [await backend.open(ask(t, always(engine, 0), LONG)) for t in TEXTS[:3]]
            await anext(replies[0].parts)
            with trouble(engine):
                waiting = asyncio.create_task(backend.open(ask(TEXTS[3], always(engine, 0))))
                for reply in replies:
                    with pytest.raises(BackendDown):
                        _ = [part async for part in reply.parts]
                with suppress(BackendDown):
                    await waiting
                await until_ready(backend)
                again = (await whole(backend, ask(TEXTS[2], always(engine, 0))))[1]
                assert backend.writing == 0
            # the lost thread has come back, and nobody heard it
            await settled(lambda: len(workers()) == 1)
            once_more = (await whole(backend, ask(TEXTS[2], always(engine, 0))))[1]
            return alone, again, once_more

    alone, again, once_more = asyncio.run(scenario())
    assert alone == again == once_more


def test_it_is_not_ready_while_it_is_stuck_with_nobody_being_answered(engine):
    async def scenario():
        async with serving(engine, restarts=0) as backend:
            await backend.ready()
            with stuck(engine):
                with pytest.raises(BackendDown):
                    await backend.ready()
                with pytest.raises(BackendDown, match=r"did not end within 2 s|does not end"):
                    await backend.ready()

    asyncio.run(scenario())


def test_after_so_many_tries_it_stays_down_and_says_why(engine, caplog):
    async def scenario():
        with pytest.MonkeyPatch.context() as patch:
            # the fault is in all
            patch.setattr("demur.engines.inprocess.supervised.replica", lambda engine: engine)
            async with serving(engine, restarts=2) as backend:
                with broken(engine):
                    async with asyncio.timeout(60):
                        while not any("given up" in m for m in caplog.messages):
                            with suppress(BackendDown):
                                await backend.ready()
                            await asyncio.sleep(0.01)
                    with pytest.raises(BackendDown, match="out of memory"):
                        await backend.ready()
                with pytest.raises(BackendDown, match="out of memory"):
                    await backend.open(ask(TEXTS[0], always(engine, 0)))

    asyncio.run(scenario())
    assert sum("started again on the same weights" in m for m in caplog.messages) == 2
    assert sum("given up" in m for m in caplog.messages) == 1


def test_the_server_ends_though_the_model_does_not(engine, monkeypatch):
    monkeypatch.setattr(worker, "STOP_S", 0.2)

    async def scenario():
        backend = HfBackend(engine, BackendLimits())
        with stuck(engine) as entered:
            waiting = asyncio.create_task(backend.open(ask(TEXTS[0], always(engine, 0))))
            await settled(entered.is_set)
            await backend.close()
            assert workers()  # its thread is held still
            with pytest.raises(BackendDown, match="shut down"):
                await waiting

    asyncio.run(scenario())


def test_streams_end_with_an_error_event_and_readiness_says_so_until_it_is_true_again(
    engine, tmp_path
):
    policy = always(engine, 0)
    backend = HfBackend(engine, BackendLimits(step_s=STEP_S))
    body = {
        "model": "demur",
        "messages": [{"role": "user", "content": TEXTS[0]}],
        "stream": True,
        "max_tokens": 150,
    }
    with served(folder_of(tmp_path, policy), backend=backend) as server, server.client() as client:
        assert client.get("/readyz").status_code == 200
        with client.stream("POST", "/v1/chat/completions", json=body) as got:
            lines = got.iter_lines()
            next(line for line in lines if line.startswith("data:"))
            with stuck(engine):
                events = [line for line in lines if line.startswith("data:")]
                assert json.loads(events[-1][5:])["error"]["code"] == "model_unavailable"
                assert "[DONE]" not in "".join(events)
                wait_until(lambda: client.get("/readyz").status_code == 200, seconds=60)
                answered = client.post(
                    "/v1/chat/completions", json={**body, "stream": False}
                ).json()
                assert answered["choices"][0]["message"]["content"]
        with stuck(engine):
            # the old tree is out of use
            assert httpx.get(server.url + "/readyz", timeout=60).status_code == 200
