"""A folder of policies that may change while a server reads it.

1. Every `*.json` in it is one policy, known by the `name` inside.
2. The server calls `reload` now and then and swaps one frozen PolicySet for the next; a request
   keeps the policy that it started with.
3. `reload` reads the files that have changed, each whole or not at all.
4. It then resolves names: a file at fault, or of a name that is taken, keeps in force the policy
   that it held before.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from demur.base.boundary import json_value
from demur.base.errors import DemurError, PolicyError
from demur.base.files import digest_bytes, open_regular
from demur.core.fingerprint import Fingerprint
from demur.core.midway.monitor import AnswerSampling
from demur.core.policy import Policy
from demur.store.policies.policy_file import policy_digest, policy_from_json
from demur.store.policies.trust import DIGESTS_ONLY, Trust

# two writes within one tick of a file system's clock look alike: younger files are reread
SETTLED_NS = 2_000_000_000
MOST_BYTES = 64 << 20  # a policy has kilobytes; what is larger is not read into memory


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Live:
    """A policy in force."""

    policy: Policy
    digest: str  # demur.store.policies.policy_file.policy_digest: what answers and logs carry
    file: str  # its file name in the folder


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """The reason why a file is not in force. The policy that it held before still is, if there was
    one.
    """

    file: str  # file name; "" for the folder itself
    message: str
    hint: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """One policy or file that a reload changed, for the log."""

    kind: Literal["added", "changed", "removed", "rejected", "recovered"]
    file: str
    name: str | None  # of the policy; None where the file has none in force
    digest: str | None  # of the policy that is in force under that name now; None if none is
    message: str = ""  # of the fault, for "rejected"


@dataclass(frozen=True, kw_only=True, slots=True)
class _FileState:
    """A file as it was last read."""

    stamp: tuple[int, ...]
    settled: bool  # the stamp alone can tell whether it has changed since
    digest: str  # of its bytes
    outcome: Live | Fault


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PolicySet:
    """The policies of a folder at one time."""

    path: Path  # the folder, or one policy file
    fingerprint: Fingerprint | None  # of the model that they must be for; None: not checked
    trust: Trust = DIGESTS_ONLY  # what promises need to count, at every reload
    # as a server writes them, which monitors must be calibrated on; None: not checked
    answers: AnswerSampling | None = None
    # whether the model was taught to turn back; else monitors need a certified promise there
    taught: bool = False
    # what serves them, if it stops no answer that was begun: then none may have a monitor
    stops_nothing: str | None = None
    policies: Mapping[str, Live] = field(default_factory=dict)  # by policy name
    faults: tuple[Fault, ...] = ()
    seen: Mapping[str, _FileState] = field(default_factory=dict)  # by file name; for `reload` only

    def require_served_monitor(self, policy: Policy) -> None:
        """Raise PolicyError on a policy whose monitor would not do what it says where these are
        served.
        """
        if self.stops_nothing is not None:
            policy.require_no_monitor(self.stops_nothing)
        if self.answers is not None:
            policy.require_served_monitor(self.answers, taught=self.taught)

    def require_sound(self) -> None:
        """Raise PolicyError with the first fault, or if there is no policy at all. For start-up."""
        for fault in self.faults:
            raise PolicyError(fault.message, fault.hint)
        if not self.policies:
            raise PolicyError(
                f"{self.path} holds no policy",
                "put a policy.json there, as `demur calibrate` writes it",
            )


def read_folder(
    path: Path,
    fingerprint: Fingerprint | None = None,
    trust: Trust = DIGESTS_ONLY,
    *,
    taught: bool = False,
) -> PolicySet:
    """Read a folder of policies, or one policy file, for the first time. Bad files become faults of
    the set. taught: whether the model was taught to turn back.
    """
    return reload(PolicySet(path=path, fingerprint=fingerprint, trust=trust, taught=taught))[0]


def reload(
    previous: PolicySet, needed: Collection[str] = ()
) -> tuple[PolicySet, tuple[Change, ...]]:
    """Read a folder again: the next set, and its changes. Reads only files that have changed;
    raises nothing.

    A file that is bad, half-written, for another model or of a name already taken is a fault, and
    the policy that it held before stays in force. So does the policy of a removed or renamed file
    if it is `needed` (some tenant's default). Of several new files with one name none is taken.
    """
    try:
        files = _listed(previous.path)
    except OSError as e:
        # The folder itself cannot be read: all policies stay, and so do the faults of its files.
        kept = tuple(f for f in previous.faults if f.file)
        fault = Fault(
            file="",
            message=f"cannot read {previous.path}: {e.strerror or e}",
            hint="check path and rights",
        )
        return _with_changes(previous, replace(previous, faults=(fault, *kept)))
    seen = {p.name: _read_file(p, previous.seen.get(p.name), previous) for p in files}
    policies, faults = _resolve(previous.policies, {f: s.outcome for f, s in seen.items()}, needed)
    return _with_changes(previous, replace(previous, policies=policies, faults=faults, seen=seen))


def _listed(path: Path) -> list[Path]:
    """The policy files of a folder, or the one file. Raises OSError if the path is not there."""
    if not path.is_dir():
        path.stat()  # raises if it is not there
        return [path]
    return sorted(
        p
        for p in path.iterdir()
        if p.suffix == ".json"
        and p.name[0] != "."
        # Folders and pipes are passed over. A broken link is read, so that it becomes a fault:
        # whoever made it meant a policy.
        and (p.is_file() or (p.is_symlink() and not p.exists()))
    )


def _read_file(path: Path, before: _FileState | None, terms: PolicySet) -> _FileState:
    """Read one file, unless it is unchanged. A file that is replaced meanwhile is read as it was
    when it was opened.
    """
    try:
        with open_regular(path) as file:
            # The stamp is of the open file, not of its name, which may lead to another by now.
            # Taken before and after reading, it tells whether somebody wrote there meanwhile.
            stamp = _stamp(file.fileno())
            if before is not None and before.settled and before.stamp == stamp:
                return before
            data = file.read(MOST_BYTES + 1)
            torn = _stamp(file.fileno()) != stamp
    except OSError as e:
        fault = Fault(
            file=path.name,
            message=f"cannot read {path}: {e.strerror or e}",
            hint="check its rights",
        )
        return _FileState(stamp=(), settled=False, digest="", outcome=fault)
    if torn:
        fault = Fault(
            file=path.name,
            message=f"{path} is being written",
            hint="write beside it, then rename over it",
        )
        return _FileState(stamp=stamp, settled=False, digest="", outcome=fault)
    if len(data) > MOST_BYTES:
        fault = Fault(
            file=path.name,
            message=f"{path} has more than {MOST_BYTES} bytes",
            hint="it is no policy",
        )
        return _FileState(stamp=stamp, settled=False, digest="", outcome=fault)
    # Another stamp with the same bytes (touch, a copy over itself) changes nothing: the policy of
    # before stays the same object.
    settled, digest = time.time_ns() - max(stamp[:2]) > SETTLED_NS, digest_bytes(data)
    if before is not None and before.digest == digest:
        return replace(before, stamp=stamp, settled=settled)
    return _FileState(
        stamp=stamp, settled=settled, digest=digest, outcome=_parsed(path, data, terms)
    )


def _stamp(descriptor: int) -> tuple[int, ...]:
    """Times, size and inode of an open file: another stamp may be another content."""
    status = os.fstat(descriptor)
    return (status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino)


def _parsed(path: Path, data: bytes, terms: PolicySet) -> Live | Fault:
    """The policy of a file's bytes, or the fault in them."""
    try:
        policy = policy_from_json(json_value(data), str(path), terms.trust)
        if terms.fingerprint is not None:
            policy.require_model(terms.fingerprint)
        terms.require_served_monitor(policy)
        return Live(policy=policy, digest=policy_digest(policy), file=path.name)
    except DemurError as e:
        message = e.message if e.message.startswith(str(path)) else f"{path}: {e.message}"
        return Fault(file=path.name, message=message, hint=e.hint)
    # not JSON, not UTF-8, or with numbers that JSON has not
    except (ValueError, OverflowError, RecursionError) as e:
        return Fault(file=path.name, message=f"{path} is damaged: {e}", hint="restore it")


def _resolve(
    before: Mapping[str, Live], found: Mapping[str, Live | Fault], needed: Collection[str]
) -> tuple[dict[str, Live], tuple[Fault, ...]]:
    """Choose the policies in force, from those in force before and the policy or fault of each
    file.

    A rejected file counts with the policy that it held before. That may bring back a name which
    another file has taken, so files are rejected until no two want one name and no needed name
    is missing. Each round rejects at least one file more: there are no more rounds than files.
    """
    held = {live.file: live for live in before.values()}
    faults = {file: outcome for file, outcome in found.items() if isinstance(outcome, Fault)}
    while True:
        claims = dict(_candidates(found, held, faults))
        names: dict[str, list[str]] = {}
        for file, live in claims.items():
            names.setdefault(live.policy.name, []).append(file)
        rejected = {
            f.file: f
            for f in (
                *_name_clashes(names, before),
                *_missing_defaults(names, before, found, needed),
            )
        }
        if not rejected:
            break
        faults |= rejected
    policies = {live.policy.name: live for live in claims.values()}
    # Removed files are in no round above: they cannot be rejected, only outlived.
    for name, live in before.items():
        if live.file not in found and name not in policies and name in needed:
            policies[name] = live
            faults[live.file] = Fault(
                file=live.file,
                message=(
                    f"{live.file} is gone, but its policy {name!r} is a tenant's default and "
                    "stays in force"
                ),
                hint="put it back, or give that tenant another default first",
            )
    return policies, tuple(faults[file] for file in sorted(faults))


def _candidates(
    found: Mapping[str, Live | Fault], held: Mapping[str, Live], faults: Collection[str]
) -> Iterator[tuple[str, Live]]:
    """The policy that each file would put in force: its own, or the one of before if it is at
    fault.
    """
    for file, outcome in found.items():
        if file not in faults and isinstance(outcome, Live):
            yield file, outcome
        elif file in held:
            yield file, held[file]


def _name_clashes(names: Mapping[str, list[str]], before: Mapping[str, Live]) -> Iterator[Fault]:
    """The files of a name that several want, but for the one that had the name before."""
    for name, files in names.items():
        for file in files:
            if len(files) > 1 and not (name in before and before[name].file == file):
                others = ", ".join(f for f in files if f != file)
                yield Fault(
                    file=file,
                    message=f"{file} holds a policy named {name!r}, and so does {others}",
                    hint="give one another name: demur calibrate --name",
                )


def _missing_defaults(
    names: Collection[str],
    before: Mapping[str, Live],
    found: Collection[str],
    needed: Collection[str],
) -> Iterator[Fault]:
    """The files that held a needed policy and now hold a policy of another name."""
    for name, live in before.items():
        if name in needed and name not in names and live.file in found:
            yield Fault(
                file=live.file,
                message=(
                    f"{live.file} no longer holds policy {name!r}, which is a tenant's "
                    "default and stays in force"
                ),
                hint=(
                    "give that tenant another default first, or put the new policy into a file "
                    "of its own"
                ),
            )


def _with_changes(old: PolicySet, new: PolicySet) -> tuple[PolicySet, tuple[Change, ...]]:
    """The new set with its differences from the old one, for the log."""
    changes: list[Change] = []
    for name in sorted({*old.policies, *new.policies}):
        was, now = old.policies.get(name), new.policies.get(name)
        if now is None and was is not None:
            changes.append(Change(kind="removed", file=was.file, name=name, digest=None))
        # Digests alone would miss a promise that no longer counts: it is written as certified
        # still.
        elif now is not None and (
            was is None or was.policy != now.policy or was.digest != now.digest
        ):
            kind: Literal["added", "changed"] = "changed" if was else "added"
            changes.append(Change(kind=kind, file=now.file, name=name, digest=now.digest))
    # A fault is logged when it comes and when it goes, not at every reload that finds it again.
    held = {live.file: live for live in new.policies.values()}
    faulty = {f.file for f in new.faults}
    for fault in (f for f in new.faults if f not in old.faults):
        changes.append(_of_file("rejected", fault.file, held.get(fault.file), fault.message))
    for fault in (
        f for f in old.faults if f.file not in faulty and (f.file in new.seen or not f.file)
    ):
        changes.append(_of_file("recovered", fault.file, held.get(fault.file)))
    return new, tuple(changes)


def _of_file(
    kind: Literal["rejected", "recovered"], file: str, live: Live | None, message: str = ""
) -> Change:
    name, digest = (live.policy.name, live.digest) if live else (None, None)
    return Change(kind=kind, file=file, name=name, digest=digest, message=message)
