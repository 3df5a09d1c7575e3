"""The tie between a promise and what it speaks of: a digest that is made with the promise and
checked at every load.

1. A stage that certifies calls demur.store.policies.policy_file.bind_promises when the policy is
   final.
2. Whoever reads a policy file computes the digest again. A promise that does not fit, or has none,
   is "not certified".
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
_BESIDE_A_CATEGORY = ("on_refuse", "translations", "limits", "curve")
UNBOUND = "it carries no digest of what it speaks of"
CHANGED = (
    "its digest is not that of the thresholds, rule, calibrator, model, rows and counts beside it"
)


def promise_digest(policy: Mapping[str, Any], promise: Mapping[str, Any]) -> str:
    """sha256 of one promise and of all that it speaks of, both as JSON values of a policy file.

    That is the promise's own fields, the taxonomy, the rule, the calibrator, the fingerprint, what
    each category's decision depends on, and whatever else the file says of decisions. Keys in any
    order.
    """
    spoken_of = {key: value for key, value in policy.items() if key not in _BESIDE_THE_POLICY}
    spoken_of["categories"] = [
        {key: value for key, value in row.items() if key not in _BESIDE_A_CATEGORY}
        for row in policy["categories"]
    ]
    own = {key: value for key, value in promise.items() if key != "digest"}
    return digest_json({"promise": own, "policy": spoken_of})


def fault_of(policy: Mapping[str, Any], promise: Mapping[str, Any]) -> str | None:
    """Why a promise of a policy file is not what was certified; None if nothing speaks against
    it.
    """
    stated = promise.get("digest")
    if stated is None:
        return UNBOUND
    return None if stated == promise_digest(policy, promise) else CHANGED
