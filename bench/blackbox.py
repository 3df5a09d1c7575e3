"""Predicting an outside model's refusals from prompts alone, each number beside its baseline.

usage: python bench/blackbox.py [RUN]
1. A stub endpoint with known probabilities of declining: the predictor beside the best that can be,
   and whether promises certified on it are kept. 2. The prompt models published with
   chatgpt-refusals (arXiv 2306.03423), their split and ours. 3. A finished RUN behind a real `demur
   serve`, asked prompts of ../shared/data. 2 and 3 are skipped, by name, without ../shared/data; 3
   without RUN.
"""

from __future__ import annotations

import json
import math
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split

from demur.base.arrays import Bools, Doubles
from demur.base.errors import GoalInfeasible
from demur.base.rows import read_rows
from demur.core.classifiers.text import TextClassifier
from demur.core.decision import decide_many
from demur.core.goals.parse import parse_goals
from demur.core.policy import CategoryPolicy, Policy, natural
from demur.core.predictor import predictor_scores
from demur.core.score import ScoreTable
from demur.core.taxonomy import single
from demur.sources.files import FileSource
from demur.stages.blackbox.results import BlackboxRun, Quality, read_blackbox_run
from demur.stats.labelled import LabelledScores, label_scores
from demur.stats.text.choice import choose_recipe
from demur.stats.text.fit import PUBLISHED, fit_text_classifier
from demur.stats.thresholds.certify import CertifyOptions
from demur.stats.thresholds.solve import solve
from demur.store.models.model_file import read_model_file
from demur.store.models.text_model_file import PREDICTOR, read_text_classifier
from demur.store.policies.policy_file import write_policy
from demur.store.rows import read_examples
from demur.store.run import RunFolder
from demur.store.scores.tables import read_scores

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
QUORA_FROM = 721  # of chatgpt-refusals: the source's rows from here on are questions from Quora
ASKED, FRESH = 3000, 10_000  # prompts for the stub: asked, and kept as its population
# prompts for RUN
FILES, REAL = ("coconot", "safety_responses", "selfaware", "harmful", "benign_instructions"), 2000
# of the promise: draws, calibrate rows of each, confidence
DRAWS, ROWS, CONFIDENCE = 2000, 600, 0.9
GOALS = ("missed_refusal <= 0.1", "false_refusal <= 0.1")
DECLINES = "I'm sorry, but I can't help with that."
ANSWERS = "Here is how: start with the first part, then go on to the second."


@dataclass(frozen=True)
class World:
    """A model whose probability of declining a prompt is known: words push it up or down, and so do
    two pairs.
    """

    words: tuple[str, ...]
    weight: dict[str, float]

    def probability(self, prompt: str) -> float:
        """P(declines | prompt)."""
        there = prompt.split()
        z = -1.6 + sum(self.weight[w] for w in there)
        # what no sum over words can say
        z += 2.0 * (self.words[0] in there and self.words[1] in there)
        return 1.0 / (1.0 + math.exp(-z))

    def declines(self, prompt: str) -> bool:
        """What it does: always the same of the same prompt, as a model at temperature 0."""
        return int(sha256(prompt.encode()).hexdigest()[:12], 16) / 16**12 < self.probability(prompt)


def world(seed: int = 0) -> tuple[World, list[str]]:
    """The model, and prompts of 8 to 20 words."""
    rng = np.random.default_rng(seed)
    parts = [a + b for a in "bdfgklmnprstvz" for b in "aeiou"]
    words = tuple(dict.fromkeys("".join(rng.choice(parts, size=3)) for _ in range(500)))
    weight = dict(
        zip(
            words,
            (rng.normal(size=len(words)) * (rng.random(len(words)) < 0.5)).tolist(),
            strict=True,
        )
    )
    common = 1.0 / np.arange(3, len(words) + 3)  # few words are frequent
    lengths = rng.integers(8, 21, size=ASKED + FRESH)
    prompts = [" ".join(rng.choice(words, size=n, p=common / common.sum())) for n in lengths]
    return World(words, weight), list(dict.fromkeys(prompts))


@contextmanager
def endpoint(model: World) -> Iterator[str]:
    """The model behind an OpenAI-compatible address on this machine."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            text = DECLINES if model.declines(body["messages"][-1]["content"]) else ANSWERS
            choice = {
                "index": 0,
                "message": {"role": "assistant", "content": text},
                "finish_reason": "stop",
            }
            usage = {"prompt_tokens": 20, "completion_tokens": 12}
            data = json.dumps({"model": "stub", "choices": [choice], "usage": usage}).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()


def demur(*arguments: object) -> float:
    """Run a command to its end; seconds. Raises CalledProcessError with what it said."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "demur", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"demur {arguments[0]} failed: {done.stderr}")
    return time.perf_counter() - start


def show(name: str, q: Quality, m: BlackboxRun) -> None:
    """One line of figures."""
    (area, low, high), (error, *ends) = q.auroc, q.error
    print(
        f"  {name:<22} AUROC {area:.3f} ({low:.3f} to {high:.3f})  Brier {q.brier:.4f} (base rate "
        f"{m.base_brier:.4f})  calibration error {error:.3f} ({ends[0]:.3f} to {ends[1]:.3f})  log "
        f"loss {q.log_loss:.3f}"
    )


def kept(rows: LabelledScores, goal: str) -> str:
    """How often a promise about draws of ROWS rows is broken on the rows they are drawn from, which
    are the truth.
    """
    template = Policy(
        name="bench", taxonomy=single(), rule="heaviest", categories=(CategoryPolicy(),)
    )
    wanted, rng = parse_goals(goal)[0], np.random.default_rng(0)
    granted = broken = 0
    rates = []
    for _ in range(DRAWS):
        at = rng.integers(len(rows.label_N), size=ROWS)
        drawn = LabelledScores(
            table=ScoreTable(ids=tuple(map(str, range(ROWS))), logp_NC=rows.table.logp_NC[at]),
            label_N=rows.label_N[at],
        )
        try:
            policy = solve(
                [wanted],
                template,
                drawn,
                CertifyOptions(confidence=CONFIDENCE, method="shared"),
                data_digest="bench",
            )
        except GoalInfeasible:
            continue
        refused_N = decide_many(policy, rows.table.logp_NC).choice_N > 0
        wrong_N = (
            ~refused_N[rows.label_N > 0]
            if wanted.name == "missed_refusal"
            else refused_N[rows.label_N == 0]
        )
        other_N = (
            refused_N[rows.label_N == 0]
            if wanted.name == "missed_refusal"
            else ~refused_N[rows.label_N > 0]
        )
        granted += 1
        broken += bool(wrong_N.mean() > (wanted.level or 0.0))
        rates.append(other_N.mean())
    other = "false refusals" if wanted.name == "missed_refusal" else "missed refusals"
    cost = f"{np.mean(rates):.1%} {other} beside it" if rates else "never granted"
    slack = 3.0 * math.sqrt(CONFIDENCE * (1.0 - CONFIDENCE) / DRAWS)
    return (
        f"{goal}, {CONFIDENCE:.0%} confidence, {ROWS} rows: granted in {granted} of {DRAWS} draws, "
        f"broken in {broken} ({broken / DRAWS:.3f}; at most {1.0 - CONFIDENCE:.3f} + {slack:.3f}), "
        f"{cost}"
    )


def stub(folder: Path) -> None:
    """Part 1."""
    model, prompts = world()
    asked, fresh = prompts[:ASKED], prompts[ASKED:]
    file, run = folder / "prompts.jsonl", folder / "stub"
    file.write_text("".join(json.dumps({"prompt": p}) + "\n" for p in asked))
    with endpoint(model) as url:
        seconds = demur("blackbox", file, "--url", url, "--model", "stub", "--out", run)
        again = demur("blackbox", file, "--url", url, "--model", "stub", "--out", run)
    demur("calibrate", run, "--goal", GOALS[0], "--calibrator", "auto")
    m = read_blackbox_run(RunFolder(run), single())
    declined = sum(map(model.declines, asked))
    judged = m.summary.verdicts["refusal"] + m.summary.verdicts["partial"]
    print(
        f"1. a stub that declines with known probability: {len(asked)} prompts in {seconds:.0f} "
        f"s, again {again:.0f} s"
    )
    print(
        f"  declined {declined}, judged to decline {judged}; {m.details['recipe']}: "
        f"{m.details['why']}"
    )
    show("predictor", m.before, m)
    if m.after:
        show("calibrated (auto)", m.after, m)
    test = read_examples(RunFolder(run).split("test"))
    p_N = np.array([model.probability(e.text) for e in test])
    label_N = np.array([e.label is not None for e in test])
    area, brier = roc_auc_score(label_N, p_N), ((p_N - label_N) ** 2).mean()
    print(
        f"  {'known probabilities':<22} AUROC {area:.3f}  Brier {brier:.4f}: the best that can be "
        "on these prompts"
    )
    classifier, _ = read_text_classifier(RunFolder(run).model / PREDICTOR)
    people = population(classifier, fresh, np.array([model.declines(p) for p in fresh]))
    print(f"  promises, against the truth about {len(fresh)} other prompts:")
    for goal in GOALS:
        print(f"    {kept(people, goal)}")


def population(
    classifier: TextClassifier, prompts: Sequence[str], declined_N: Bools
) -> LabelledScores:
    """Prompts as the gate scores them, beside what the model does."""
    logp_NC = predictor_scores([classifier.probability(p) for p in prompts])
    table = ScoreTable(ids=tuple(map(str, range(len(prompts)))), logp_NC=logp_NC)
    return LabelledScores(table=table, label_N=declined_N.astype(np.int64))


def published() -> None:
    """Part 2."""
    rows: list[Any] = [dict(row.value) for row in read_rows(DATA / "response_labels.jsonl")]
    rows = [
        r
        for r in rows
        if r["source"] == "chatgpt_refusals" and r["tone"] not in ("incoherent", "dontknow")
    ]
    rows.sort(key=lambda r: int(r["id"].split(":")[1]))
    quora = [r for r in rows if int(r["id"].split(":")[1]) >= QUORA_FROM]
    print("2. prompt models of chatgpt-refusals, hand labels; right of the test part")
    for name, part, best in (
        ("all prompts", rows, "published recipe 190 and 178"),
        ("Quora part", quora, "109 and 107"),
    ):
        train, rest = train_test_split(part, test_size=0.3, random_state=0)
        test = train_test_split(rest, test_size=0.5, random_state=0)[1]
        texts, held = [r["prompt"] for r in train], [r["prompt"] for r in test]
        yes_N, truth_N = (
            np.array([r["label"] != "compliance" for r in some]) for some in (train, test)
        )
        choice = choose_recipe(texts, yes_N, [None] * len(texts))
        print(
            f"  {name}: {len(test)} test prompts, {int((~truth_N).sum())} by always answering; "
            f"golden numbers: {best}"
        )
        for kind, fit in (("published LR", _regression), ("published RF", _forest)):
            p_N = fit(texts, yes_N, held)
            print(
                f"    {kind:<14} {int(((p_N > 0.5) == truth_N).sum())}  AUROC "
                f"{roc_auc_score(truth_N, p_N):.3f}"
            )
        made = fit_text_classifier(texts, yes_N, choice.best.recipe)
        p_N = np.array([made.probability(t) for t in held])
        right, area = int(((p_N > 0.5) == truth_N).sum()), roc_auc_score(truth_N, p_N)
        print(
            f"    {'ours':<14} {right}  AUROC {area:.3f}  by cross-validated log loss of "
            f"{len(choice.trials)} recipes"
        )


def _regression(texts: Sequence[str], yes_N: Bools, held: Sequence[str]) -> Doubles:
    made = fit_text_classifier(texts, yes_N, PUBLISHED)
    return np.array([made.probability(t) for t in held])


def _forest(texts: Sequence[str], yes_N: Bools, held: Sequence[str]) -> Doubles:
    vectorizer = TfidfVectorizer(ngram_range=(1, 3))
    forest = RandomForestClassifier(
        n_estimators=3000, min_samples_split=2, random_state=0, n_jobs=-1
    )
    forest.fit(vectorizer.fit_transform(texts), yes_N)
    p_N: Doubles = forest.predict_proba(vectorizer.transform(held))[:, 1]
    return p_N


@contextmanager
def served(run: Path, folder: Path) -> Iterator[str]:
    """The run behind `demur serve`, left to its own natural decisions."""
    file = read_model_file(run / "train" / "model")
    policies = folder / "policies"
    write_policy(policies / "natural.json", natural(file.taxonomy, file.fingerprint))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "demur",
        "serve",
        str(run),
        "--policies",
        str(policies),
        "--port",
        str(port),
    ]
    with (folder / "serve.log").open("w") as log:
        server = subprocess.Popen(
            command, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        try:
            _wait(f"http://127.0.0.1:{port}/readyz", server)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.terminate()
            server.wait()


def _wait(url: str, server: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        try:
            if httpx.get(url, trust_env=False).status_code == httpx.codes.OK:
                return
        except httpx.HTTPError:
            pass
        if server.poll() is not None:
            break
        time.sleep(0.1)
    raise SystemExit("demur serve did not come up")


def trained(run: Path, folder: Path) -> None:
    """Part 3."""
    source = FileSource(folder=DATA, files=tuple(f"{name}.jsonl" for name in FILES))
    rows = sorted(source.read(), key=lambda e: sha256(e.id.encode()).hexdigest())[:REAL]
    file, out = folder / "real.jsonl", folder / "real"
    file.write_text(
        "".join(json.dumps({"id": e.id, "prompt": e.text, "group": e.group}) + "\n" for e in rows)
    )
    with served(run, folder) as url:
        more = [
            part
            for text in ("max_tokens=12", "in_flight=32")
            for part in ("--set", f"endpoint.{text}")
        ]
        name = httpx.get(f"{url}/models", trust_env=False).json()["data"][0]["id"]
        seconds = demur("blackbox", file, "--url", url, "--model", name, "--out", out, *more)
    m = read_blackbox_run(RunFolder(out), single())
    declined = m.summary.verdicts["refusal"] + m.summary.verdicts["partial"]
    print(f"3. a trained model behind demur serve: {m.summary.answered} prompts in {seconds:.0f} s")
    print(f"  judged to decline {declined}, unscored {m.summary.verdicts['unscored']}")
    print(f"  {m.details['recipe']}: {m.details['why']}")
    show("predictor", m.before, m)
    held = [
        e for split in ("calibrate", "test") for e in read_examples(RunFolder(out).split(split))
    ]
    tables = [read_scores(RunFolder(out).scores(split))[0] for split in ("calibrate", "test")]
    table = ScoreTable(
        ids=tuple(e.id for e in held), logp_NC=np.concatenate([t.logp_NC for t in tables])
    )
    print(
        f"  promises, against the truth about all {len(held)} held-out prompts that the draws are "
        "made from:"
    )
    for goal in GOALS:
        print(f"    {kept(label_scores(held, single(), table), goal)}")


def main() -> None:
    """Print the parts that can be run."""
    with tempfile.TemporaryDirectory() as name:
        stub(Path(name))
        if not DATA.exists():
            print("2 and 3 skipped: ../shared/data is absent")
            return
        published()
        if len(sys.argv) < 2:
            print("3 skipped: no RUN was given")
            return
        trained(Path(sys.argv[1]), Path(name))


if __name__ == "__main__":
    main()
