"""Attempts that need no running server: on files, on what is unpickled, on pages in a browser, on
keys.
"""

from __future__ import annotations

import contextlib
import copy
import hmac
import json
import pickle
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from demur.base.errors import DemurError
from demur.core.decision import decide_many
from demur.core.policy import Policy
from demur.core.score import ScoreTable
from demur.engines.hf.load import load_model
from demur.pages.page import render_html
from demur.pages.parts import Code, Page, Section, Table
from demur.store.models.model_file import read_model_file
from demur.store.models.text_model_file import read_text_classifier
from demur.store.policies import keys
from demur.store.policies.choice_file import read_choice
from demur.store.policies.policy_file import policy_to_json, read_policy
from demur.store.policies.tenants_file import read_tenants
from demur.store.results.metrics_file import read_metrics
from demur.store.rows import read_examples
from demur.store.scores.tables import read_scores, write_scores
from tests.builders import MODEL, certified
from tests.security import folded, fronts, together
from tests.security.site import tenants_toml

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """An attempt on files. run: what it achieved in an empty folder; None: nothing."""

    kind: str
    name: str
    run: Callable[[Path], str | None]


# --- policies
# --------------------------------------------------------------------------------------------------

LOGP_NC = np.log(np.random.default_rng(0).dirichlet([1, 1, 1], 200) * 0.99).astype(np.float32)
OTHERS: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    0.999,
    1e308,
    "never",
    "x",
    "",
    [],
    {},
    [[]],
    "1" * 5000,
)


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of all values that hold no other."""
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    empty = True
    for key, item in items:
        empty = False
        yield from leaves(item, (*path, key))
    if empty:
        yield path


def at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


def mutated(path: tuple[Any, ...], other: Any) -> Callable[[Path], str | None]:
    """A certified policy with one value changed: an error, not certified, or the same decisions and
    promises.
    """

    def run(folder: Path) -> str | None:
        value = copy.deepcopy(policy_to_json(certified()))
        if at(value, path) == other and type(at(value, path)) is type(other):
            return None
        at(value, path[:-1])[path[-1]] = other
        file = folder / "policy.json"
        file.write_text(json.dumps(value), encoding="utf-8")
        try:
            found = read_policy(file)
        except DemurError:
            return None
        return what_it_claims(found)

    return run


def what_it_claims(found: Policy) -> str | None:
    """What is certified of a policy that is not the one that was certified."""
    claimed = [p for p in found.promises if p.status == "certified"]
    if not claimed:
        return None
    true = certified()
    if [replace(p, digest=None) for p in claimed] != [
        replace(p, digest=None) for p in true.promises
    ]:
        return f"an invented promise is certified: {claimed}"
    if found.fingerprint != true.fingerprint:
        return "certified for another model"
    before, after = (decide_many(p, LOGP_NC).choice_N.tolist() for p in (true, found))
    return None if before == after else "certified with other decisions"


def policies() -> Iterator[Trial]:
    value = policy_to_json(certified())
    for path in leaves(value):
        for n, other in enumerate(OTHERS):
            name = f"{'.'.join(map(str, path))} {n}"
            yield Trial(kind="mutated policies", name=name, run=mutated(path, other))


# --- artifacts
# --------------------------------------------------------------------------------------------------

DEEP = b"[" * 100_000
DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "one byte": lambda _: b"\0",
    "white space": lambda _: b" \n" * 100,
    "cut at a half": lambda b: b[: len(b) // 2],
    "without its last byte": lambda b: b.rstrip()[:-1],
    "without its first byte": lambda b: b[1:],
    "one bit flipped": lambda b: (
        b[: len(b) // 3] + bytes([b[len(b) // 3] ^ 1]) + b[len(b) // 3 + 1 :]
    ),
    "high bit flipped": lambda b: (
        b[: len(b) // 2] + bytes([b[len(b) // 2] ^ 128]) + b[len(b) // 2 + 1 :]
    ),
    "twice": lambda b: b + b,
    "zeros behind": lambda b: b + b"\0" * 100,
    "zeros inside": lambda b: b[: len(b) // 2] + b"\0" * 10 + b[len(b) // 2 :],
    "UTF-16": lambda b: b.decode("latin-1").encode("utf-16"),
    "deeply nested": lambda _: DEEP,
    "a deep object": lambda _: b'{"a":' * 50_000,
    "many digits": lambda _: b"1" * 100_000,
    "a list": lambda _: b"[]",
    "null": lambda _: b"null",
    "NaN": lambda _: b"NaN",
    "a text": lambda _: b'"x"',
    "a pickle": lambda _: pickle.dumps({"a": 1}),
    "a zip": lambda _: b"PK\x03\x04" + b"\0" * 100,
    "a parquet header": lambda _: b"PAR1" + b"\xff" * 60 + b"PAR1",
    "reversed": lambda b: b[::-1],
    "half of a surrogate pair": lambda _: b'"\\ud800"',
}


def _example_row() -> bytes:
    row = {
        "id": "a",
        "source": "s",
        "kind": "benign",
        "messages": [{"role": "user", "content": "Hi"}],
    }
    return json.dumps(row).encode() + b"\n"


def _scores(path: Path) -> None:
    write_scores(path, ScoreTable(ids=tuple(map(str, range(50))), logp_NC=LOGP_NC[:50]), MODEL)


WRITERS: dict[str, tuple[Callable[[Path], object], Callable[[Path], object]]] = {
    "policy.json": (lambda p: p.write_text(json.dumps(policy_to_json(certified()))), read_policy),
    "tenants.toml": (tenants_toml, read_tenants),
    "rows.jsonl": (lambda p: p.write_bytes(_example_row() * 3), read_examples),
    "scores.parquet": (_scores, read_scores),
    "demur.json": (lambda p: p.write_text("{}"), lambda p: read_model_file(p.parent)),
    "metrics.json": (lambda p: p.write_text("{}"), read_metrics),
    "choice.json": (lambda p: p.write_text("{}"), read_choice),
    "text.npz": (lambda p: np.savez(p, a=np.zeros(3)), read_text_classifier),
}


def damaged(name: str, damage: Callable[[bytes], bytes]) -> Callable[[Path], str | None]:
    """A damaged file: an error of ours that names it, or the same content as before."""

    def run(folder: Path) -> str | None:
        write, read = WRITERS[name]
        file = folder / name
        write(file)
        try:
            before = read(file)
        except DemurError:
            before = None
        whole = file.read_bytes()
        file.write_bytes(damage(whole))
        try:
            found = read(file)
        except DemurError as e:
            return (
                None
                if name in str(e) or name == "demur.json"
                else f"the error does not name it: {e}"
            )
        if isinstance(found, Policy):
            return what_it_claims(found)
        return (
            None
            if repr(found) == repr(before) or name != "scores.parquet"
            else "other scores without a word"
        )

    return run


def artifacts() -> Iterator[Trial]:
    for name in WRITERS:
        for how, damage in DAMAGES.items():
            yield Trial(kind="damaged files", name=f"{name}, {how}", run=damaged(name, damage))


# --- pickles
# --------------------------------------------------------------------------------------------------


class Bomb:
    """What leaves a file behind when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self._mark, "boom")


PICKLED: dict[str, Callable[[Path], object]] = {
    "policy.json": read_policy,
    "tenants.toml": read_tenants,
    "rows.jsonl": read_examples,
    "scores.parquet": read_scores,
    "demur.json": lambda p: read_model_file(p.parent),
    "metrics.json": read_metrics,
    "choice.json": read_choice,
    "text.npz": read_text_classifier,
    "pytorch_model.bin": lambda p: load_model(p.parent, None, "cpu"),
    "model.safetensors": lambda p: load_model(p.parent, None, "cpu"),
}


def _save(path: Path, save: Callable[..., object], array: object) -> None:
    with path.open("wb") as file:
        save(file, array, **({"allow_pickle": True} if save is np.save else {}))


def _torch(path: Path, bomb: object) -> None:
    torch.save({"weight": bomb}, path)


WAYS: dict[str, Callable[[Path, object], object]] = {
    "a pickle": lambda p, bomb: p.write_bytes(pickle.dumps(bomb)),
    "an old pickle": lambda p, bomb: p.write_bytes(pickle.dumps(bomb, protocol=0)),
    "NumPy's file": lambda p, bomb: _save(p, np.save, np.array([bomb], dtype=object)),
    "NumPy's archive": lambda p, bomb: _save(p, np.savez, np.array([bomb], dtype=object)),
    "torch's file": _torch,
}


def unpickled(name: str, way: str) -> Callable[[Path], str | None]:
    """A file with a pickle in it where another format is expected: nothing in it runs."""

    def run(folder: Path) -> str | None:
        mark = folder / "mark"
        WAYS[way](folder / name, Bomb(mark))
        (folder / "config.json").write_text(
            json.dumps({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]})
        )
        with contextlib.suppress(
            DemurError, OSError, ValueError, pickle.UnpicklingError, RuntimeError
        ):
            PICKLED[name](folder / name)
        return "it ran" if mark.exists() else None

    return run


def pickles() -> Iterator[Trial]:
    for name in PICKLED:
        for way in WAYS:
            yield Trial(kind="pickles", name=f"{name} as {way}", run=unpickled(name, way))


# --- pages
# --------------------------------------------------------------------------------------------------

HIT = "document.documentElement.setAttribute('data-hit','1')"
MARKUP = (
    f"<script>{HIT}</script>",
    f"</script><script>{HIT}</script>",
    f'<img src=x onerror="{HIT}">',
    f'<svg onload="{HIT}">',
    f"<svg><script>{HIT}</script></svg>",
    f'<body onload="{HIT}">',
    f'<iframe srcdoc="<script>parent.{HIT}</script>"></iframe>',
    f'<iframe src="javascript:parent.{HIT}"></iframe>',
    f'<a href="javascript:{HIT}" autofocus onfocus="{HIT}">x</a>',
    f'<input autofocus onfocus="{HIT}">',
    f'<details open ontoggle="{HIT}">x</details>',
    f'"><script>{HIT}</script>',
    f"'><script>{HIT}</script>",
    f'" onmouseover="{HIT}" autofocus onfocus="{HIT}" x="',
    f"--><script>{HIT}</script>",
    f"]]><script>{HIT}</script>",
    f"</style><script>{HIT}</script>",
    f"</title><script>{HIT}</script>",
    f"</textarea><script>{HIT}</script>",
    f"</pre><script>{HIT}</script>",
    f'<math><mtext></form><form><mglyph><style></math><img src onerror="{HIT}">',
    f'<video><source onerror="{HIT}"></video>',
    f'<marquee onstart="{HIT}">x</marquee>',
    f'<object data="javascript:{HIT}"></object>',
    f'<meta http-equiv=refresh content="0;url=javascript:{HIT}">',
    f'<base href="javascript:{HIT}//">',
    f'<link rel=stylesheet href="javascript:{HIT}">',
    f"<template><script>{HIT}</script></template>",
    f"\\u003cscript\\u003e{HIT}\\u003c/script\\u003e",
    f"&lt;script&gt;{HIT}&lt;/script&gt;",
    "{{ ''.__class__.__mro__ }}" + f"<script>{HIT}</script>",
    f"{{% raw %}}<script>{HIT}</script>{{% endraw %}}",
    f"\u2028<script>{HIT}</script>\u2029",
    f"<scr\0ipt>{HIT}</script>",
    f"+ADw-script+AD4-{HIT}+ADw-/script+AD4-",
    f"<!--<script>{HIT}<!--</script>-->",
)


def page_of(*texts: str) -> str:
    """A page in which strangers' texts stand in every place that takes one."""
    sections = []
    for n, text in enumerate(texts):
        table = Table(title=text, header=(text, text), rows=((text, text),))
        parts = (table, Code(title=text, caption=text, lines=(text,)))
        sections.append(Section(key=f"s{n}", title=text, parts=parts, text=(text,)))
    return render_html(
        Page(made_by=texts[0], title=texts[0], headline=texts[0], sections=tuple(sections))
    )


@cache
def opened(html: str) -> str:
    """What a browser makes of a page: its elements after its scripts have run."""
    if CHROMIUM is None:
        raise RuntimeError("no Chromium here: these attempts need a real browser")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "page.html"
        file.write_text(html, encoding="utf-8")
        flags = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={folder}",
            "--dump-dom",
        ]
        command = [CHROMIUM, *flags, "--virtual-time-budget=2000", file.as_uri()]
        shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if "<body" not in shown.stdout:
        raise RuntimeError(f"the browser showed nothing: {shown.stderr[-300:]}")
    return shown.stdout


def in_a_browser(text: str) -> Callable[[Path], str | None]:
    """Hostile text on a page, opened with all the others (a browser's start takes seconds): nothing
    of it runs.
    """

    def run(_: Path) -> str | None:
        ran = 'data-hit="1"' in opened(page_of(*MARKUP)).partition("<body")[0]
        return f"one of these ran, perhaps {text!r}" if ran else None

    return run


def pages() -> Iterator[Trial]:
    for text in MARKUP:
        yield Trial(kind="markup in a browser", name=text[:60], run=in_a_browser(text))


# --- keys
# --------------------------------------------------------------------------------------------------

RIGHT = "demur_caller_0f3a"


def compared(presented: str | None) -> Callable[[Path], str | None]:
    """A wrong key: refused, after as many comparisons in constant time as any other."""

    def run(folder: Path) -> str | None:
        tenants = read_tenants(tenants_toml(folder / "tenants.toml"))

        def count(key: str) -> tuple[int, object]:
            with patch.object(hmac, "compare_digest", wraps=hmac.compare_digest) as seen:
                found = keys.authenticate(tenants.keys, key, datetime.now(UTC))
            return seen.call_count, found

        wanted, right = count(RIGHT)
        made, found = count(presented or "")
        if not isinstance(found, keys.KeyProblem):
            return f"it opened: {found}"
        if isinstance(right, keys.KeyProblem):
            return "the right key opens nothing"
        return (
            None
            if made == wanted or not presented
            else f"{made} comparisons, {wanted} for the right key"
        )

    return run


def key_trials() -> Iterator[Trial]:
    for n in range(len(RIGHT)):
        yield Trial(kind="keys compared", name=f"{n} letters right", run=compared(RIGHT[:n]))
        wrong = RIGHT[:n] + ("x" if RIGHT[n] != "x" else "y") + RIGHT[n + 1 :]
        yield Trial(kind="keys compared", name=f"letter {n} wrong", run=compared(wrong))
    for name, key in {
        "in capitals": RIGHT.upper(),
        "folded": RIGHT.replace("a", "\uff41"),
        "with a space": f"{RIGHT} ",
        "with NUL": f"{RIGHT}\0",
        "long": RIGHT * 1000,
        "its hash": keys.digest_of_key(RIGHT),
    }.items():
        yield Trial(kind="keys compared", name=name, run=compared(key))


def trials() -> list[Trial]:
    """All of them."""
    named = (
        Trial(kind="folded names in files", name=name, run=run) for name, run in folded.trials()
    )
    pairs = (
        Trial(kind="two processes on one folder", name=name, run=run)
        for name, run in together.trials()
    )
    cascades = (Trial(kind=kind, name=name, run=run) for kind, name, run in fronts.trials())
    return [
        *policies(),
        *artifacts(),
        *pickles(),
        *pages(),
        *key_trials(),
        *named,
        *pairs,
        *cascades,
    ]
