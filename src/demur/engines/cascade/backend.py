"""A cascade in service: a front model decides what it is sure of, and the backend behind it the
rest.

1. The front reads the conversation. A request with tools or a schema is the model's to decide,
   always.
2. What the front hands over, the backend behind decides and answers as if it were alone, under the
   same thresholds.
3. What the front is sure of is decided on the front's score by the same function. A refusal with a
   text of the operator's own costs no model at all. Else the backend behind writes: it is made to
   answer, or to refuse with that category, by a policy that leaves it no choice.
"""

from __future__ import annotations

from dataclasses import replace

from demur.base.arrays import Floats
from demur.base.errors import BackendDown
from demur.core.cascade.front import Front
from demur.core.decision import Decision, decide_or_doubt
from demur.core.policy import DoubtRule, Fingerprint, Policy
from demur.core.serving import Ask, Backend, Reply, is_silent, nothing

# the decision has been made: the model's own score decides nothing
FORCED = DoubtRule(most_leftover=1.0)


class CascadeBackend:
    """Implements demur.core.serving.Backend. digest: of the front's file."""

    def __init__(self, front: Front, digest: str, behind: Backend) -> None:
        self._front = front
        self._behind = behind
        self._fingerprint = behind.fingerprint.behind(digest)

    @property
    def fingerprint(self) -> Fingerprint:
        """The cascade's: policies of the model alone, or of another front, are refused."""
        return self._fingerprint

    async def open(self, ask: Ask) -> Reply:
        """See demur.core.serving.Backend. Raises PolicyError on a policy of anything but this
        cascade.
        """
        ask.policy.require_model(self._fingerprint)
        given = (
            None if ask.tools or ask.json_schema is not None else self._front.given(ask.messages)
        )
        if given is None:
            return await self._behind.open(replace(ask, policy=self._as_behind(ask.policy)))
        return await self._decided(ask, given)

    async def ready(self) -> None:
        """The backend's behind."""
        await self._behind.ready()

    async def close(self) -> None:
        """Close the backend behind."""
        await self._behind.close()

    async def _decided(self, ask: Ask, logp_C: Floats) -> Reply:
        """Decide on the front's score; the backend behind writes what is to be written."""
        decision = decide_or_doubt(ask.policy, logp_C)
        if is_silent(ask, decision):
            return Reply(
                decision=decision, logp_C=logp_C, prompt_tokens=0, parts=nothing(), by_front=True
            )
        forced = _leaving_no_choice(self._as_behind(ask.policy), decision)
        written = await self._behind.open(replace(ask, policy=forced))
        if written.decision.column != decision.column:
            raise BackendDown(
                f"the backend behind the front writes after {written.decision.choice!r}, and "
                f"{decision.choice!r} was decided",
                "it does not keep to forced categories: serve the model alone",
            )
        return replace(written, decision=decision, logp_C=logp_C, by_front=True)

    def _as_behind(self, policy: Policy) -> Policy:
        return replace(policy, fingerprint=self._behind.fingerprint)


def _leaving_no_choice(policy: Policy, decision: Decision) -> Policy:
    """The policy under which every score leads to this decision."""
    categories = tuple(
        replace(c, override="force" if column == decision.column else "suppress")
        for column, c in enumerate(policy.categories, start=1)
    )
    return replace(policy, categories=categories, doubt=FORCED)
