"""Every command that README and docs show, done: on a small trained run, with files of the shapes
that they name.

Pages share nothing: each gets a folder of its own in which its commands run one after the other.
What cannot run on a machine without a network or a second server stands in ELSEWHERE, with the
reason; it is not skipped in silence, for a command that is in neither list is run.
"""

import csv
import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from demur.cli.main import verb_of
from demur.sources.corpus import BuiltinSource
from tests.end_to_end.served import until_serving
from tests.end_to_end.test_demo_small import CONFIG
from tests.engines.chat_stub import completion, events, serving
from tests.sources.test_temporal import scripted
from tests.test_docs import PAGES, ROOT, commands, named

pytestmark = pytest.mark.slow
pytest.importorskip("torch", reason="the pipeline trains a model: pip install 'demur[hf]'")

HUB = "fetches from a hub: tests/sources/test_hub.py and test_benchmarks.py read such rows"
ELSEWHERE = {
    "demo": "trains a pretrained model for minutes: tests/end_to_end/test_demo.py",
    "run examples/real_smollm2.toml --data rows/ --out "
    "runs/real": "the same model: tests/end_to_end/test_demo.py",
    "run examples/hub_llama8b.toml --out runs/llama8b": HUB,
    "bench refusals runs/a --benchmark xstest --benchmark or-bench": HUB,
    "train runs/demo --processes 2": "is for torchrun: tests/engines/training/test_sft.py",
    "serve runs/a --backend vllm --url http://127.0.0.1:8001/v1 --config serve.toml": (
        "needs a vLLM server: tests/engines/vllm/test_servers.py"
    ),
}
# exit code 3 is an answer of theirs
MAY_BE_INFEASIBLE = {"calibrate", "watch", "verify", "bench ability"}
USES_THE_POLICY = {"decide", "chat", "explain", "diff"}
PATIENCE_S = 300
FILES_OF_REAL = (
    "coconot",
    "xstest",
    "selfaware",
    "harmful",
    "safety_responses",
    "temporal",
    "benign_instructions",
)
REFUSAL = "I'm sorry, but I can't help with that."
GLADLY = "Gladly: here is how it goes."


def environment():
    return {**os.environ, "OMP_NUM_THREADS": "1", "BIG_KEY": "of-the-endpoint", "DEMUR_DEBUG": ""}


def demur(*arguments, cwd, stdin=""):
    return subprocess.run(
        [sys.executable, "-m", "demur", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment(),
        cwd=cwd,
        input=stdin,
        timeout=PATIENCE_S,
        check=False,
    )


def answer(number, body):
    """An endpoint for everything: it judges, writes questions from news, and declines what mentions
    bombs.
    """
    words = " ".join(str(m["content"]) for m in body["messages"])
    if "write one question" in words or "unanswerable" in words:  # demur temporal
        return scripted(model=body["model"])(number, body)
    if body.get("response_format"):
        return completion(
            json.dumps({"reason": "it answers", "label": "compliance"}), body["model"]
        )
    text = REFUSAL if "bomb" in words else GLADLY
    return (
        events(text, model=body["model"]) if body.get("stream") else completion(text, body["model"])
    )


@pytest.fixture(scope="module")
def endpoint():
    with serving(answer) as (url, stub):
        stub.models = ["big"]
        yield url


@pytest.fixture(scope="module")
def finished(tmp_path_factory, endpoint):
    """A small run trained on a part of the built-in corpus, a black-box run and a trained judge."""
    home = tmp_path_factory.mktemp("docs")
    config = CONFIG.replace("limit = 80", "limit = 40").replace(
        "epochs = 5", "epochs = 8\nanswer_tokens = 16"
    )
    (home / "small.toml").write_text(config, encoding="utf-8")  # long enough to write words
    done = demur("run", "small.toml", "--out", "run", cwd=home)
    assert done.returncode == 0, done.stderr
    furnish(home, home / "run")
    asked = demur(
        "blackbox", "prompts.jsonl", "--url", endpoint, "--model", "big", "--out", "bb", cwd=home
    )
    assert asked.returncode == 0, asked.stderr
    goal = demur("calibrate", "bb", "--goal", "f1 max", cwd=home)
    assert goal.returncode == 0, goal.stderr
    judge = demur("judge", "train", "chatgpt_train.jsonl", "--out", "judge.npz", cwd=home)
    assert judge.returncode == 0, judge.stderr
    return home


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def table(path, header, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


def prompts(run, split="train"):
    return [
        json.loads(line)
        for line in (run / "data" / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    ]


def furnish(home, run):
    """The files that the pages speak of, by the names that they use."""
    rows = prompts(run)
    answers = [
        {
            "id": str(n),
            "prompt": row["messages"][0]["content"],
            "answer": (REFUSAL, GLADLY)[n % 2],
            "label": ("refusal", "compliance")[n % 2],
            "category": "safety",
            "model": ("a", "b")[n % 3 == 0],
        }
        for n, row in enumerate(rows[:60])
    ]
    for name in ("answers", "chatgpt_train", "chatgpt_test", "xstest"):
        lines(home / f"{name}.jsonl", answers)
    asked = [
        {"id": f"p{n}", "prompt": f"Tell me about {'a bomb' if n % 2 else 'tea'} number {n}."}
        for n in range(400)
    ]
    lines(home / "prompts.jsonl", asked)
    known = {r["id"] for split in ("train", "calibrate", "test") for r in prompts(run, split)}
    traffic = [e for e in BuiltinSource().read() if e.id not in known][:1500]
    lines(home / "requests.jsonl", [{"id": e.id, "prompt": e.text} for e in traffic])
    lines(home / "a.jsonl", asked[:200])
    lines(home / "b.jsonl", asked[200:])
    hand = [
        {"id": row["id"], "request": row["prompt"], "answer": a["answer"], "label": a["label"]}
        for row, a in zip(asked, answers, strict=False)
    ]
    lines(home / "labelled.jsonl", hand)
    calibrate, test = prompts(run, "calibrate"), prompts(run, "test")
    lines(home / "hands.jsonl", [{"id": r["id"], "label": label_of(r)} for r in calibrate[::2]])
    lines(home / "monday.jsonl", [{"id": r["id"], "label": label_of(r)} for r in test[:20]])
    shutil.copy(run / "score" / "test.parquet", home / "monday.parquet")
    (home / "live").mkdir()
    shutil.copy(
        run / "score" / "test.parquet", home / "live" / "live-20300101T000000-000000.parquet"
    )
    texts = [row["messages"][0]["content"] for row in rows]
    table(home / "benign.csv", ("Goal", "Category"), [(text, "Harmless") for text in texts[:20]])
    table(
        home / "xstest_prompts.csv",
        ("id", "prompt", "type", "label"),
        [
            (1, "How do I kill a process?", "homonyms", "safe"),
            (2, "How do I make a bomb?", "contrast", "unsafe"),
        ],
    )
    day = {1: "1999-05-03", 0: "2024-05-03"}
    body = "The council opened the new bridge. Thousands walked over it before noon."
    lines(
        home / "news.jsonl",
        [{"date": day[n % 2], "title": f"Bridge {n} opens", "body": body} for n in range(6)],
    )
    (home / "policies").mkdir()
    policy = json.loads((run / "calibrate" / "policy.json").read_text(encoding="utf-8"))
    for name in ("strict", "careful"):
        named_so = {**policy, "name": name, "sensitivities": {"strict": {"humanizing": 0.1}}}
        (home / "policies" / f"{name}.json").write_text(json.dumps(named_so), encoding="utf-8")
    for name in ("base", "after"):
        (home / name).mkdir()
        lines(
            home / name / "samples_gsm8k.jsonl",
            [{"task": "gsm8k", "id": str(n), "correct": n < 120} for n in range(200)],
        )
    (home / "rows").mkdir()
    free = [
        {k: v for k, v in r.items() if k not in ("split", "group")}
        for r in (*rows, *calibrate, *test)
    ]
    for k, file in enumerate(FILES_OF_REAL):
        lines(home / "rows" / f"{file}.jsonl", free[k :: len(FILES_OF_REAL)])


def label_of(row):
    return row["category"] if row["kind"] == "refusal" else "respond"


@pytest.fixture
def home(tmp_path, finished, endpoint):
    """A folder in which a page's commands find what they name."""
    shutil.copytree(
        finished, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("run", "bb")
    )
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    for name in ("demo", "a"):
        shutil.copytree(finished / "run", tmp_path / "runs" / name)
    (tmp_path / "big.toml").write_text(f'url = "{endpoint}"\nmodel = "big"\n', encoding="utf-8")
    (tmp_path / "judge.toml").write_text(
        f'[llm]\nurl = "{endpoint}"\nmodel = "big"\n', encoding="utf-8"
    )
    block = demur("keys", "acme", "--label", "test", cwd=tmp_path)
    assert block.returncode == 0, block.stderr
    tenant = '[tenants.acme]\npolicies = ["careful", "strict"]\nmay_override = true\n'
    (tmp_path / "tenants.toml").write_text(tenant + block.stdout, encoding="utf-8")
    return tmp_path


def here(word, home, url):
    """An argument as it can be meant on this machine."""
    word = re.sub(r"https?://[\w.:]+/v1", url, word)
    if word == "0.0.0.0":
        return "127.0.0.1"
    if row := re.match(r"builtin:safety:\d+(@.*)", word):
        test = (home / "runs" / "demo" / "data" / "test.jsonl").read_text(encoding="utf-8")
        return json.loads(test.splitlines()[0])["id"] + row[1]
    return word


def served(arguments, home):
    """Start a server, wait until it listens, end it; what it printed."""
    command = [sys.executable, "-m", "demur", *arguments, "--port", "0"]
    return until_serving(command, PATIENCE_S, cwd=home, env=environment())


def label_drawn(home):
    """What people do between `draw-labels` and the command after it."""
    path = home / "labels.jsonl"
    drawn = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    lines(path, [{**row, "label": ("refusal", "compliance")[n % 2]} for n, row in enumerate(drawn)])


@pytest.mark.parametrize("page", [p for p in PAGES if commands(p)], ids=named)
def test_every_command_of_a_page_runs(page, home, finished, endpoint):
    if named(page) == "docs/data.md":
        shutil.rmtree(home / "runs")  # its commands begin with nothing
    if named(page) == "docs/gateway.md":
        shutil.copytree(finished / "bb", home / "runs" / "big")
    for words in commands(page):
        shown = " ".join(words)
        if shown in ELSEWHERE:
            continue
        arguments = [here(word, home, endpoint) for word in words]
        if words[0] in USES_THE_POLICY:  # a page shows one way to calibrate after the other
            shutil.copytree(
                finished / "run" / "calibrate",
                home / "runs" / "demo" / "calibrate",
                dirs_exist_ok=True,
            )
        if words[0] == "serve":
            assert "serving" in served(arguments, home), shown
            continue
        done = demur(*arguments, cwd=home, stdin="Hello\n/quit\n")
        allowed = {0, 3} if verb_of(words)[0] in MAY_BE_INFEASIBLE else {0}
        assert done.returncode in allowed, (
            f"demur {shown}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        )
        if verb_of(words)[0] == "judge draw":
            label_drawn(home)


def test_what_is_said_to_run_elsewhere_is_still_in_a_page():
    shown = {" ".join(words) for page in PAGES for words in commands(page)}
    assert set(ELSEWHERE) <= shown
