"""A cascade as a backend: a front model decides the requests it is sure of, a backend the others.

1. The front scores the conversation. A request with tools or a JSON schema is always handed over,
   since the front has not read either.
2. The backend behind decides and answers a request that is handed over, under the same thresholds.
3. A request that the front is sure of is decided on the front's score. If the operator holds the
   refusal's text, no other model runs. Otherwise the backend behind writes the answer under a
   policy that leads every score to the front's decision.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from demur.base.arrays import Floats
from demur.base.errors import BackendDown
from demur.core.cascade.front import Front
from demur.core.decision import Decision, decide_or_doubt
from demur.core.fingerprint import Fingerprint
from demur.core.policy import DoubtRule, Policy
from demur.core.serving import Backend, ServeReply, ServeRequest, generates_nothing, no_parts

# A policy with a forced decision accepts any score of the model behind, however doubtful.
FORCED = DoubtRule(most_leftover=1.0)


class CascadeBackend:
    """Serves a front and the backend behind it. Implements demur.core.serving.Backend.

    digest: sha256 of the front's file.
    """

    stops_nothing: ClassVar[str] = "a cascade"

    def __init__(self, front: Front, digest: str, behind: Backend) -> None:
        self._front = front
        self._behind = behind
        self._fingerprint = behind.fingerprint.behind(digest)

    @property
    def fingerprint(self) -> Fingerprint:
        """Fingerprint of the cascade; policies of the model alone or of another front differ."""
        return self._fingerprint

    async def open(self, ask: ServeRequest) -> ServeReply:
        """Decide a request and begin its answer; see demur.core.serving.Backend.

        Raises PolicyError if the policy was made for anything but this cascade, BackendDown if the
        backend behind ignores the front's decision, and the errors of the backend behind.
        """
        ask.policy.require_model(self._fingerprint)
        ask.policy.require_no_monitor(self.stops_nothing)
        # None: handed over
        given = (
            None if ask.tools or ask.json_schema is not None else self._front.given(ask.messages)
        )
        if given is None:
            return await self._behind.open(replace(ask, policy=self._as_behind(ask.policy)))
        return await self._decided(ask, given)

    async def ready(self) -> None:
        """Return once the backend behind is ready; raises its errors."""
        await self._behind.ready()

    async def close(self) -> None:
        """Close the backend behind."""
        await self._behind.close()

    async def _decided(self, ask: ServeRequest, logp_C: Floats) -> ServeReply:
        """Decide on the front's score; the backend behind writes the answer, if there is one."""
        decision = decide_or_doubt(ask.policy, logp_C)
        if generates_nothing(ask, decision):
            return ServeReply(
                decision=decision, logp_C=logp_C, prompt_tokens=0, parts=no_parts(), by_front=True
            )
        # The backend behind scores again, in vain: its port has no way to write without deciding.
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
        """The policy with the fingerprint that the backend behind requires."""
        return replace(policy, fingerprint=self._behind.fingerprint)


def _leaving_no_choice(policy: Policy, decision: Decision) -> Policy:
    """Copy a policy so that every score leads to this decision.

    The decision's category is forced and all others are suppressed; to answer, all are.
    """
    categories = tuple(
        replace(c, override="force" if column == decision.column else "suppress")
        for column, c in enumerate(policy.categories, start=1)
    )
    return replace(policy, categories=categories, doubt=FORCED)
