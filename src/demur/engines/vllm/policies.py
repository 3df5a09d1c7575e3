"""The policies of a vLLM server: read from a folder, chosen by a request, sent to the worker as
JSON.

The process that takes requests in resolves each one to its effective policy and sends that along.
The worker, which may meet the request seconds later, looks nothing up: no reload in between can
change, or lose, what was asked for.
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
from demur.engines.vllm.policy_request import DIGEST, POLICY, PolicyRequest
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

# a changed file is noticed after so long, or at once by a request that names its digest
REFRESH_S = 1.0
# A caller that resolved a policy just before it changed may still have that version: the newest so
# many are kept.
VERSIONS = 256


class PolicyRegistry:
    """The policies that a server offers, kept up to date. Safe to use from several threads.

    default: the policy of requests that name none. `model` is the fingerprint that all policies
    share, now and after every reload. Raises PolicyError or ConfigError when the settings cannot be
    followed; a file that goes bad later leaves what it last held in force.
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
        self._lock = threading.Lock()
        # (name, digest), oldest first
        self._versions: OrderedDict[tuple[str, str], Live] = OrderedDict()
        self.model = _fingerprint_of(read_folder(folder, trust=trust))
        self._take(read_folder(folder, self.model, trust))
        self._set.require_sound()
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
        """The policy that decides a request, as JSON for `decoded`; None for a request without one,
        where allowed.

        Raises AccessError: no policy where one is required, an unknown one, another version, a
        forbidden override.
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

    def _find(self, name: str, digest: str | None) -> Live:
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
        """The folder as it is now. What is wrong with it is logged once."""
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
        return (
            self._set.policies.get(name) if digest is None else self._versions.get((name, digest))
        )

    def _take(self, policies: PolicySet) -> None:
        """Put a state of the folder in force, remembering its versions."""
        self._set, self._read_at = policies, self._clock()
        for name, live in policies.policies.items():
            self._versions[name, live.digest] = live
            self._versions.move_to_end((name, live.digest))
        while len(self._versions) > max(VERSIONS, len(policies.policies)):
            self._versions.popitem(last=False)

    def _known(self, name: str) -> str:
        return suggest(name, self._set.policies)


def _trust(environment: Mapping[str, str]) -> Trust:
    """What the variables ask of policies. Raises ConfigError on a key or a word that is none."""
    keys = tuple(
        key.strip() for key in environment.get(TRUSTED_VARIABLE, "").split(",") if key.strip()
    )
    otherwise: Any = environment.get(UNPROVEN_VARIABLE) or DIGESTS_ONLY.otherwise
    return Trust(keys=keys, otherwise=otherwise)


def _fingerprint_of(policies: PolicySet) -> Fingerprint:
    """The model that the first policy was made for. Raises PolicyError if it names none, or if
    there is no policy.
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
    """A policy under these thresholds, as JSON, without what does not decide. Raises
    AccessError.
    """
    policy = apply_overrides(live.policy, PolicyChoice(thresholds=dict(thresholds))).policy
    categories = tuple(replace(c, curve=(), translations=()) for c in policy.categories)
    return json.dumps(
        policy_to_json(replace(policy, categories=categories, promises=(), sensitivities=()))
    )


@lru_cache(maxsize=1024)
def decode_policy(text: str) -> Policy:
    """The policy behind what `PolicyRegistry.effective` made: the same object for the same text."""
    return policy_from_json(json.loads(text), "a policy on its way to the worker")
