"""Token ids that a policy forces or bans, for engines to set the other logits to -inf.

1. At the first answer position a row may emit one id only: the control token of its decision.
2. At every later position it may emit no control id.

Arrays in, arrays out; shared by every engine that changes logits (transformers, vLLM).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from demur.base.arrays import Floats, Ints
from demur.base.errors import EngineError
from demur.core.decision import decide_many, require_settled
from demur.core.policy import Policy


def forced_ids(policy: Policy, control_ids: Sequence[int], logp_NC: Floats) -> Ints:
    """Control id that each of N rows must emit first, shape (N,); doubtful rows refuse.

    The policy's rule for doubt is not applied: an error inside vLLM would end all answers. Others
    call settled_ids.

    control_ids: C token ids, respond first, in the order of the score's columns. logp_NC: see
    demur.core.score. Raises EngineError on ids that do not fit the taxonomy, PolicyError on a
    policy that defers, ScoreError on anything but log-probabilities.
    """
    return _ids_of(policy, control_ids)[decide_many(policy, logp_NC).choice_N]


def settled_ids(policy: Policy, control_ids: Sequence[int], logp_NC: Floats) -> Ints:
    """Control id that each of N rows must emit first, with the policy's rule for doubt applied.

    Arguments and shapes as in forced_ids. Raises ScoreDoubt on rows without a score, and on
    doubtful ones if the rule is "error".
    """
    ids_C = _ids_of(policy, control_ids)
    require_settled(policy, logp_NC)
    return ids_C[decide_many(policy, logp_NC).choice_N]


def _ids_of(policy: Policy, control_ids: Sequence[int]) -> Ints:
    """The control ids as an array, (C,). Raises EngineError unless there is one per choice, and
    PolicyError on a policy that defers.
    """
    policy.require_no_deferral("a gate on control tokens")
    ids_C = banned_ids(control_ids)
    if len(ids_C) != len(policy.taxonomy.tokens):
        raise EngineError(
            f"{len(ids_C)} control ids {ids_C.tolist()} for the {len(policy.taxonomy.tokens)} "
            f"control tokens of policy {policy.name!r}",
            "give one id per control token, respond first: demur doctor lists them",
        )
    return ids_C


def banned_ids(control_ids: Sequence[int]) -> Ints:
    """Ids that no later position may emit: all control ids, shape (C,).

    Raises EngineError if one is repeated.
    """
    ids_C = np.asarray(control_ids, dtype=np.int64)
    if len(np.unique(ids_C)) != len(ids_C):
        raise EngineError(
            f"control ids {ids_C.tolist()} repeat", "each control token needs an id of its own"
        )
    return ids_C
