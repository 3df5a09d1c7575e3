"""Names that look alike: of policies, sensitivities, categories and tenants, folded, decorated, or
with paths.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from demur.base.errors import DemurError
from demur.store.policies.folder import read_folder
from demur.store.policies.keys import KeyProblem, authenticate
from demur.store.policies.policy_file import policy_digest, write_policy
from demur.store.policies.tenants_file import key_block, read_tenants
from demur.store.run import RunFolder
from tests.builders import policy
from tests.security.attempt import TUNER, Attempt, chat, user
from tests.security.site import GENTLE, tenants_toml

Run = Callable[[Path], str | None]
ENDS, BAD = (404, 400), "invalid_value"  # some are no names at all: with NUL, or too long
# Cyrillic
LIKE = dict(zip("aeocpsid", "\u0430\u0435\u043e\u0441\u0440\u0455\u0456\u0501", strict=True))
FOLDED = {"s": "\u017f", "k": "\u212a", "fi": "\ufb01", "st": "\ufb06", "i": "\u0131"}
INVISIBLE = "\u200b\u200c\u200d\u2060\ufeff\u00ad\ufe0f\u034f\u202e\u2066\U000e0061"
SPACES = " \t\n\r\u00a0\u3000\u2028\u0085\x1f"
PATHS = (
    "./{}",
    "../policies/{}",
    "{}/",
    "{}/.",
    "{}/../{}",
    "/{}",
    "~/{}",
    "{}.json",
    "{}.json/",
    "file:{}",
    "{}\\",
)
MORE_PATHS = ("..\\{}", "{}::$DATA", "{}%00.json", "%2e%2e/{}", "{};x")


def lookalikes(name: str) -> dict[str, str]:
    """Other names than this one, by what was done to it."""
    found = {
        "capitals": name.upper(),
        "a capital": name.title(),
        "fullwidth": "".join(chr(ord(c) + 0xFEE0) for c in name),
        "bold": "".join(chr(0x1D41A + ord(c) - ord("a")) if c.islower() else c for c in name),
        "circled": "".join(chr(0x24D0 + ord(c) - ord("a")) if c.islower() else c for c in name),
        "a mark behind": name + "\u0301",
        "composed": unicodedata.normalize("NFC", name[0] + "\u0323" + name[1:]),
        "twice": name * 2,
        "long": name * 2000,
        "cut": name[:-1],
        "backwards": name[::-1],
        "quoted": f'"{name}"',
        "a list": f"{name},{name}",
        "a wildcard": name[:-1] + "*",
        "a class": f"[{name[0]}]{name[1:]}",
        "percent": "".join(f"%{ord(c):02x}" for c in name),
        "HTML": "".join(f"&#{ord(c)};" for c in name),
        "null behind": f"{name}\0",
    }
    found |= {f"like {a}": name.replace(a, b) for a, b in LIKE.items()}
    found |= {f"folds to {a}": name.replace(a, b) for a, b in FOLDED.items()}
    for mark in INVISIBLE:
        found[f"U+{ord(mark):04X} inside"] = name[:2] + mark + name[2:]
        found[f"U+{ord(mark):04X} behind"] = name + mark
    for space in SPACES:
        found[f"U+{ord(space):04X} before"] = space + name
        found[f"U+{ord(space):04X} at the end"] = name + space
    found |= {f"path {p}": p.format(name, name) for p in (*PATHS, *MORE_PATHS)}
    others = {other: how for how, other in found.items() if other != name}
    return {how: other for other, how in others.items()}


def attempts() -> Iterator[Attempt]:
    """Names in requests: none may be taken for another."""
    kind = "folded names"
    for name in ("guarded", "strict", "tuned"):
        for how, other in lookalikes(name).items():
            body = chat(user(), demur={"policy": other})
            yield Attempt(
                kind=kind,
                name=f"policy {name}: {how}",
                body=body,
                ends=ENDS,
                codes=("policy_not_found", BAD),
            )
    for how, other in lookalikes("safety").items():
        for field, value in (("thresholds", "never"), ("rates", 0.0)):
            body = chat(user(), demur={field: {other: value}})
            name = f"{field} of safety: {how}"
            yield Attempt(
                kind=kind,
                name=name,
                key=TUNER,
                body=body,
                ends=(400,),
                codes=("unknown_category", BAD),
            )
    for how, other in lookalikes(GENTLE).items():
        body = chat(user(), demur={"sensitivity": other})
        name = f"sensitivity: {how}"
        yield Attempt(
            kind=kind,
            name=name,
            key=TUNER,
            body=body,
            ends=(400,),
            codes=("unknown_sensitivity", BAD),
        )
    for how, other in lookalikes("demur").items():
        body = {**chat(user()), "model": other}
        yield Attempt(
            kind=kind, name=f"model: {how}", body=body, ends=ENDS, codes=("model_not_found", BAD)
        )
    for how, other in lookalikes("policy").items():
        yield Attempt(
            kind=kind,
            name=f"field: {how}",
            body=chat(user(), demur={other: "guarded"}),
            ends=(400,),
        )


def of_a_run(name: str) -> Run:
    """A name for a policy of a run (`--name`): refused, or in a folder of its own that nothing else
    is called.
    """

    def run(folder: Path) -> str | None:
        made = RunFolder(folder)
        try:
            path = made.named(name).policy
        except DemurError:
            return None
        if path.resolve().parent.parent != made.policy.resolve().parent:
            return f"it is kept at {path}"
        taken = {"policies", "parts", "policy", "natural", "calibrated"}
        return "it is the name of something else" if name.lower() in taken else None

    return run


def as_a_tenant(name: str) -> Run:
    """A key for a tenant of such a name: refused, or it opens nothing of the other's."""

    def run(folder: Path) -> str | None:
        file = tenants_toml(folder / "tenants.toml")
        key = "demur_folded"
        try:
            block = key_block(name, "folded", key)
            file.write_text(file.read_text(encoding="utf-8") + block, encoding="utf-8")
            found = authenticate(read_tenants(file).keys, key, datetime.now(UTC))
        except DemurError:
            return None
        return None if isinstance(found, KeyProblem) else f"it opens {found.tenant.name}"

    return run


def as_a_policy(name: str) -> Run:
    """A policy of such a name beside the right one: the right name still means the right policy,
    and no other.
    """

    def run(folder: Path) -> str | None:
        right = replace(policy(2, "heaviest", [0.3, 0.4]), name="guarded")
        other = replace(policy(2, "heaviest", [0.9, 0.9]), name=name)
        write_policy(folder / "a.json", other)
        write_policy(folder / "b.json", right)
        found = read_folder(folder).policies
        if found["guarded"].digest != policy_digest(right):
            return "the other one is served under this name"
        return None if set(found) == {"guarded", name} else f"served as {sorted(found)}"

    return run


def trials() -> Iterator[tuple[str, Run]]:
    """Names in files and on the command line, and what must come of them."""
    for taken in ("policies", "natural", "parts"):
        for how, other in lookalikes(taken).items():
            yield f"--name {taken}: {how}", of_a_run(other)
    for how, other in lookalikes("caller").items():
        yield f"tenant: {how}", as_a_tenant(other)
    for how, other in lookalikes("guarded").items():
        yield f"policy in a file: {how}", as_a_policy(other)
