"""The pre-answer gate as it is attacked: a scorer by what is said, a scripted model behind, a
server in front.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from demur.base.arrays import Floats
from demur.core.policy import CategoryPolicy, Policy
from demur.core.ports import Progress, Prompt, no_progress
from demur.core.predictor import predictor_fingerprint, predictor_scores, prompt_text
from demur.core.taxonomy import single
from demur.engines.remote.pre_answer import GateSettings, PreAnswerBackend
from demur.engines.remote.upstream import UpstreamOptions
from tests.engines.chat_stub import events
from tests.engines.chat_stub import serving as stub_serving
from tests.security.attacks import every
from tests.security.attempt import CALLER, Attempt
from tests.security.judge import decided
from tests.security.site import LIMITS, Lines, Site, tenants_toml
from tests.server.live_server import folder_of, serving

# Kinds that name no category of another taxonomy, and no forward pass.
KINDS = (
    "control tokens in messages",
    "forged turns",
    "control tokens in other fields",
    "prefill",
    "parameters",
    "malformed bodies",
    "scores",
)
LONGER = "longer than the context"  # of the model in process: the one behind this gate has its own
SENT = {
    "model",
    "messages",
    "max_tokens",
    "temperature",
    "top_p",
    "seed",
    "stop",
    "stream",
    "stream_options",
}
NATIVELY = {"tools", "tool_choice", "response_format"}
MARK = "zq7locks"  # what the scorer that reads marks refuses


class HashScorer:
    """A probability that is another for each text: about half of all are refused, and any change
    shows.
    """

    fingerprint = predictor_fingerprint("a" * 64, single().tokens, "prompts")

    def logp(self, prompts: Sequence[Prompt], progress: Progress = no_progress) -> Floats:
        """By the digest of what users said."""
        return predictor_scores(
            [hashlib.sha256(prompt_text(p).encode()).digest()[0] / 256 for p in prompts]
        )


class MarkScorer(HashScorer):
    """Refuses what it reads the mark in."""

    def logp(self, prompts: Sequence[Prompt], progress: Progress = no_progress) -> Floats:
        """By whether the mark is in what users said, also across lines."""
        return predictor_scores(
            [0.99 if MARK in prompt_text(p).replace("\n", "").lower() else 0.01 for p in prompts]
        )


@contextmanager
def gate_site(
    root: Path, scorer: Any, script: Callable[..., Any] | None = None, **settings: Any
) -> Iterator[Site]:
    """The gate, running. script: what the model behind says, see chat_stub."""
    policies = {
        name: Policy(
            name=name,
            taxonomy=single(),
            rule="heaviest",
            categories=(CategoryPolicy(threshold=0.5),),
            fingerprint=scorer.fingerprint,
        )
        for name in ("guarded", "tuned", "strict")
    }
    lines = Lines()
    logging.getLogger().addHandler(lines)
    try:
        with stub_serving(script or (lambda number, body: events("fine"))) as (url, stub):
            backend = PreAnswerBackend(
                upstream=UpstreamOptions(url=url),
                settings=GateSettings(model="stub-1", **settings),
                scorer=scorer,
            )
            folder = folder_of(root / "policies", *policies.values())
            with serving(
                folder, tenants_toml(root / "tenants.toml"), backend=backend, limits=LIMITS
            ) as server:
                by_key = {CALLER: policies["guarded"]}
                yield Site(
                    server=server, oracle=scorer, policies=by_key, read=stub.bodies, log=lines.lines
                )
    finally:
        logging.getLogger().removeHandler(lines)


def gate_attempts() -> list[Attempt]:
    """Those that this backend can be held to."""
    return [a for a in every() if a.kind in KINDS and a.key == CALLER and a.name != LONGER]


def what_was_sent(site: Site, attempt: Attempt) -> Iterator[str]:
    """Nothing for a refusal; else the conversation letter by letter, with fields of ours and no
    others.
    """
    refused = decided(site, attempt).refuses
    if refused and site.read:
        yield "the model was asked what was refused"
    if not refused and not site.read:
        yield "nothing was asked"
    for body in site.read:
        if [(m["role"], m["content"]) for m in body["messages"]] != list(attempt.reads or ()):
            yield f"sent {body['messages']}, expected {attempt.reads}"
        if set(body) - SENT - NATIVELY or any(
            set(m) != {"role", "content"} for m in body["messages"]
        ):
            yield f"sent the fields {sorted(body)}"


def unseen(site: Site, attempt: Attempt) -> str | None:
    """Of text hidden beside a conversation: that it was not decided about. Turned down is no
    success either.
    """
    site.read.clear()
    answer = site.send(attempt)
    if site.read:
        return (
            "the model was asked: "
            f"{site.read[0].get('tools') or site.read[0].get('response_format')}"
        )
    if answer.status == 200 and '"decision":"refuse"' not in answer.text.replace(" ", ""):
        return f"answered: {answer.text[:200]}"
    if answer.status not in (200, 400) or answer.status not in (*attempt.ends, 400):
        return f"status {answer.status}: {answer.text[:200]}"
    return None
