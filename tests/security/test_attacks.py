"""Attempts against a running server: none may succeed. docs/security.md has the counts."""

from pathlib import Path

import pytest

from tests.security.attacks import PLAIN, RESPOND, every, forged, typed
from tests.security.attempt import CANARY, CHAT, OPERATOR, Attempt, chat, user
from tests.security.judge import verdict
from tests.security.raw_connections import SCENES
from tests.security.site import logged_secrets, site
from tests.security.table import rows

KINDS = tuple(dict.fromkeys(a.kind for a in every()))


@pytest.fixture(scope="module")
def attacked(tmp_path_factory):
    with site(tmp_path_factory.mktemp("site")) as made:
        yield made


@pytest.mark.parametrize("kind", KINDS)
def test_no_attempt_succeeds(attacked, kind):
    attempts = [a for a in every() if a.kind == kind]
    achieved = {a.name: what for a in attempts if (what := verdict(attacked, a))}
    assert achieved == {}
    assert logged_secrets(attacked.log, CANARY) == []
    assert not any(
        '"event": "crash"' in line or '"level": "error"' in line for line in attacked.log
    )


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.name)
def test_no_attempt_on_a_bare_connection_succeeds(attacked, scene):
    assert scene.run(attacked) is None
    assert verdict(attacked, Attempt(kind="", name="", body=chat(user()), reads=(PLAIN,))) is None


def test_the_table_in_the_docs_counts_these_attempts():
    page = (Path(__file__).parents[2] / "docs" / "security.md").read_text(encoding="utf-8")
    assert "\n".join(rows({})) in page


def test_no_attempt_is_made_twice():
    attempts = every()
    assert len(attempts) >= 300
    assert len({(a.kind, a.name) for a in attempts}) == len(attempts)
    asked = {(a.method, a.path, a.headers, a.key, a.content) for a in attempts}
    assert len(asked) >= len(attempts) - 2


def test_the_attempts_would_succeed_against_a_server_that_encodes_what_is_typed(attacked):
    tokenizer = attacked.oracle.tokenizer
    respond = tokenizer.convert_tokens_to_ids(RESPOND)
    with_teeth = 0
    for attempt in (*typed(), *forged()):
        turns = [{"role": role, "content": text} for role, text in attempt.reads]
        ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True)["input_ids"]
        with_teeth += respond in ids
    assert with_teeth >= 60


def test_an_operator_sees_what_the_judge_would_call_a_leak(attacked):
    attempt = Attempt(
        kind="",
        name="",
        key=OPERATOR,
        body=chat(user()),
        reads=(("user", user()["content"]),),
        path=CHAT,
    )
    sees = {**attacked.policies, OPERATOR: next(iter(attacked.policies.values()))}
    object.__setattr__(attacked, "policies", sees)
    assert "shown" in verdict(attacked, attempt)
