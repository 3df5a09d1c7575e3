"""Digests of promises: made when a stage certifies, compared at every load.

1. A stage that certifies calls demur.store.policies.policy_file.bind_promises when the policy is
   final.
2. Every reader of a policy file computes the digest again. A promise with another digest, or
   without one, is "not certified".
3. Anybody can compute a digest. Against an editor who does, a policy is signed:
   demur.store.policies.signature.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from demur.base.files import digest_json

# A promise is about decisions. What no decision depends on may change under it; any other key, also
# one that a later version adds, is part of what the promise speaks of.
_BESIDE_THE_POLICY = ("format", "name", "sensitivities", "promises")
_BESIDE_A_CATEGORY = (
    *("on_refuse", "translations", "limits", "curve"),
    *("on_defer", "defer_text", "defer_translations"),
)
UNBOUND = "it carries no digest of what it speaks of"
CHANGED = (
    "its digest is not that of the thresholds, rule, calibrator, model, rows and counts beside it"
)


def promise_digest(policy: Mapping[str, Any], promise: Mapping[str, Any]) -> str:
    """The sha256 of a promise and of all that its decisions depend on, from the JSON values of a
    policy file.

    That is the promise's own fields, the taxonomy, the rule, the calibrator, the fingerprint, the
    keys of each category that change a decision, and any key of the file that is not named above.
    Keys in any order.
    """
    # Keys are left out by name, not taken by name: a key that a later version adds to decisions is
    # bound without a change here.
    spoken_of = {key: value for key, value in policy.items() if key not in _BESIDE_THE_POLICY}
    spoken_of["categories"] = [
        {key: value for key, value in row.items() if key not in _BESIDE_A_CATEGORY}
        for row in policy["categories"]
    ]
    own = {key: value for key, value in promise.items() if key != "digest"}
    return digest_json({"promise": own, "policy": spoken_of})


def fault_of(policy: Mapping[str, Any], promise: Mapping[str, Any]) -> str | None:
    """The reason why a promise of a policy file is not the certified one; None without such a
    reason.
    """
    stated = promise.get("digest")
    if stated is None:
        return UNBOUND
    return None if stated == promise_digest(policy, promise) else CHANGED
