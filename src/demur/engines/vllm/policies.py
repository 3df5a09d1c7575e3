"""The policies of a vLLM server: read from a folder, resolved per request, sent to the worker.

1. The process that accepts requests keeps a registry of the folder, reloaded as files change.
2. It resolves each request to its effective policy: that version, with the thresholds moved.
3. The policy travels to the worker as JSON inside the request. The worker, which may start on the
   request seconds later, looks nothing up, so no reload in between can change or lose it.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from demur.base.errors import AccessError, ConfigError, PolicyError
from demur.base.suggest import suggest
from demur.core.access import PolicyChoice, apply_overrides
from demur.core.fingerprint import Fingerprint
from demur.core.policy import Policy
from demur.engines.vllm.policy_request import DIGEST, POLICY, PolicyRequest, require_stateless
from demur.store.policies.folder import Live, PolicySet, read_folder, reload
from demur.store.policies.policy_file import policy_from_json, policy_to_json
from demur.store.policies.trust import DIGESTS_ONLY, Trust

LOG = logging.getLogger(__name__)

FOLDER_VARIABLE = "DEMUR_POLICIES"  # a folder of policies, or one policy file
DEFAULT_VARIABLE = "DEMUR_POLICY"  # the policy of requests that name none
REQUIRE_VARIABLE = "DEMUR_REQUIRE_POLICY"  # "1": requests that name none are refused
# public keys with commas between them: the server's trusted_keys
TRUSTED_VARIABLE = "DEMUR_TRUSTED_KEYS"
UNPROVEN_VARIABLE = "DEMUR_UNPROVEN"  # "not certified" or "error": the server's unproven

# age at which the registry is reloaded; a request with an unknown digest reloads it at once
REFRESH_S = 1.0
# Versions kept beside those in force: a caller may name the version of a moment ago.
VERSIONS = 256


class PolicyRegistry:
    """The policies that a server offers, kept up to date. Safe to use from several threads.

    default: the policy of requests that name none. required: refuse requests without a policy.
    `model` is the fingerprint that all policies share, now and after every reload. Raises
    PolicyError on an invalid or missing policy, or a default one that defers, AccessError on a
    default one whose monitor adds up, ConfigError on an unknown default; a request under any other
    such policy is refused. A file that
    becomes invalid later leaves its last valid policy in force.
    """

    def __init__(
        self,
        folder: Path,
        *,
        default: str | None = None,
        required: bool = False,
        trust: Trust = DIGESTS_ONLY,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._default, self._required, self._clock = default, required, clock
        # held while the state of the folder is read or replaced: requests come from many threads
        self._lock = threading.Lock()
        # by (name, digest), oldest first
        self._versions: OrderedDict[tuple[str, str], Live] = OrderedDict()
        self.model = _fingerprint_of(read_folder(folder, trust=trust))
        self._take(read_folder(folder, self.model, trust))
        self._set.require_sound()
        if default is not None and default in self._set.policies:
            self._set.policies[default].policy.require_no_deferral("the plug-in")
            require_stateless(self._set.policies[default].policy)
        if default is not None and default not in self._set.policies:
            raise ConfigError(
                f"{DEFAULT_VARIABLE} = {default!r} is not in {folder}", self._known(default)
            )

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> PolicyRegistry:
        """The registry that environment variables configure. Raises ConfigError on bad ones."""
        folder = environment.get(FOLDER_VARIABLE)
        if not folder:
            raise ConfigError(
                f"{FOLDER_VARIABLE} is not set", "name the folder of policies before starting vLLM"
            )
        required = environment.get(REQUIRE_VARIABLE, "0")
        if required not in ("0", "1"):
            raise ConfigError(f"{REQUIRE_VARIABLE} = {required!r}", 'set it to "1" or "0"')
        default = environment.get(DEFAULT_VARIABLE) or None
        return cls(
            Path(folder), default=default, required=required == "1", trust=_trust(environment)
        )

    def effective(self, request: PolicyRequest) -> str | None:
        """The policy that decides a request, as JSON for `decode_policy`.

        None for a request without a policy, where that is allowed. Raises AccessError: no policy
        where one is required, an unknown policy, another version, a forbidden override.
        """
        name = self._default if request.policy is None else request.policy
        if name is None:
            if self._required or request != PolicyRequest():
                raise AccessError(
                    "the request names no policy",
                    f"set {POLICY} in vllm_xargs",
                    code="policy_required",
                    param=POLICY,
                )
            return None
        live = self._find(name, request.digest)
        return _encode_policy(live, tuple(request.thresholds.items()))

    def require_no_monitor(self, who: str) -> None:
        """Raise PolicyError if a policy in force has a monitor, on which `who` would not act."""
        for live in self._set.policies.values():
            live.policy.require_no_monitor(who)

    def _find(self, name: str, digest: str | None) -> Live:
        """A version of a policy; digest None: the one in force. Raises AccessError."""
        with self._lock:
            found = self._version(name, digest)
            if found is None or self._clock() - self._read_at > REFRESH_S:
                self._take(self._reloaded())
                found = self._version(name, digest)
            known = self._set.policies.get(name)
        if found is not None:
            return found
        if known is None:
            raise AccessError(
                f"there is no policy {name!r}",
                self._known(name),
                code="policy_not_found",
                param=POLICY,
            )
        raise AccessError(
            f"policy {name!r} is {known.digest}, not {digest}",
            "ask for the version in force, or put yours into the folder",
            code="policy_changed",
            param=DIGEST,
        )

    def _reloaded(self) -> PolicySet:
        """Read the folder again. Changes, and files that are rejected, are logged once."""
        policies, changes = reload(
            self._set, needed=[self._default] if self._default is not None else []
        )
        for change in changes:
            LOG.log(
                logging.WARNING if change.kind == "rejected" else logging.INFO,
                "%s: %s %s",
                change.file,
                change.kind,
                change.message,
            )
        return policies

    def _version(self, name: str, digest: str | None) -> Live | None:
        """A known version of a policy, without reading the folder."""
        return (
            self._set.policies.get(name) if digest is None else self._versions.get((name, digest))
        )

    def _take(self, policies: PolicySet) -> None:
        """Put a state of the folder in force, and remember its versions."""
        self._set, self._read_at = policies, self._clock()
        for name, live in policies.policies.items():
            self._versions[name, live.digest] = live
            self._versions.move_to_end((name, live.digest))
        # Those in force were just moved to the end, so the oldest go and none in force is dropped.
        while len(self._versions) > max(VERSIONS, len(policies.policies)):
            self._versions.popitem(last=False)

    def _known(self, name: str) -> str:
        return suggest(name, self._set.policies)


def _trust(environment: Mapping[str, str]) -> Trust:
    """The trust settings in environment variables. Raises ConfigError on an invalid one."""
    keys = tuple(
        key.strip() for key in environment.get(TRUSTED_VARIABLE, "").split(",") if key.strip()
    )
    otherwise: Any = environment.get(UNPROVEN_VARIABLE) or DIGESTS_ONLY.otherwise
    return Trust(keys=keys, otherwise=otherwise)


def _fingerprint_of(policies: PolicySet) -> Fingerprint:
    """The fingerprint in the first policy of a folder.

    Raises PolicyError if the policy has no fingerprint, or if there is no policy.
    """
    policies.require_sound()
    first = next(iter(policies.policies.values()))
    if first.policy.fingerprint is None:
        raise PolicyError(
            f"{first.file} names no model", "calibrate on the scores of the model that vLLM serves"
        )
    return first.policy.fingerprint


@lru_cache(maxsize=1024)
def _encode_policy(live: Live, thresholds: tuple[tuple[str, float], ...]) -> str:
    """A policy under a request's thresholds, as JSON. Raises AccessError on a forbidden one,
    PolicyError on a policy that the plug-in cannot act on.
    """
    require_stateless(live.policy)
    # A server of ours may read the same folder, and serve such a policy in front of this one.
    live.policy.require_no_deferral("the plug-in")
    policy = apply_overrides(live.policy, PolicyChoice(thresholds=dict(thresholds))).policy
    # Every request carries this text: curves, translations, promises and sensitivities, which
    # decide nothing, are left out.
    categories = tuple(replace(c, curve=(), translations=()) for c in policy.categories)
    return json.dumps(
        policy_to_json(replace(policy, categories=categories, promises=(), sensitivities=()))
    )


@lru_cache(maxsize=1024)
def decode_policy(text: str) -> Policy:
    """The policy in a text of `PolicyRegistry.effective`; the same object for the same text."""
    return policy_from_json(json.loads(text), "a policy on its way to the worker")
