"""demur audit on a run of the fake engine: it draws, counts labels in the order of the draws, and
stops.
"""

import json
import shutil

import pytest

from demur.core.decision import decide_many
from demur.store.policies.policy_file import read_policy
from demur.store.rows import read_examples
from demur.store.run import RunFolder
from demur.store.scores.tables import read_scores


@pytest.fixture
def run(made_run, tmp_path, demur):
    root = shutil.copytree(made_run, tmp_path / "run")
    assert demur("calibrate", root, "--goal", "false_refusal <= 0.25").code == 0
    return root


def truth(run):
    return {e.id: e.label or "respond" for e in read_examples(RunFolder(run).split("test"))}


def false_refusals(run):
    policy, (table, _) = (
        read_policy(RunFolder(run).policy),
        read_scores(RunFolder(run).scores("test")),
    )
    refused = decide_many(policy, table.logp_NC).refuses_N.tolist()
    of = [r for i, r in zip(table.ids, refused, strict=True) if truth(run)[i] == "respond"]
    return sum(of) / len(of)


def label(path, answers, leave=()):
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        if row["id"] not in leave:
            row["label"] = answers[row["id"]]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [row["id"] for row in rows]


def audit(demur, run, tmp_path, goal, most=40):
    """Audit until it is settled; returns the exit code and the JSON of the last call."""
    files = []
    for n in range(most):
        out = tmp_path / f"next-{n}.jsonl"
        flags = [f for file in files for f in ("--labels", file)]
        command = ("audit", run, "--goal", goal, "--scores", RunFolder(run).scores("test"))
        found = demur(*command, "--out", out, "--batch", 60, *flags, "--json")
        told = json.loads(found.out)
        if not told["waiting"]:
            return found.code, told
        label(out, truth(run))
        files.append(out)
    return found.code, told


def test_a_level_far_above_the_rate_is_kept_and_the_audit_stops(demur, run, tmp_path):
    code, told = audit(demur, run, tmp_path, f"false_refusal <= {false_refusals(run) + 0.2:.3f}")
    assert (code, told["verdict"]) == (0, "kept")
    assert told["p_kept"] <= 0.05
    assert told["labelled"] < told["requests"]


def test_a_level_far_below_the_rate_is_broken_and_exits_with_3(demur, run, tmp_path):
    code, told = audit(demur, run, tmp_path, "missed_refusal <= 0.001")
    assert (code, told["verdict"]) == (3, "broken")


def test_labels_count_in_the_order_of_the_draws(demur, run, tmp_path):
    first = tmp_path / "first.jsonl"
    command = ("audit", run, "--goal", "false_refusal <= 0.3", "--scores")
    command = (*command, RunFolder(run).scores("test"))
    assert "undecided" in demur(*command, "--out", first, "--batch", 20).out
    ids = label(first, truth(run))
    label(first, dict.fromkeys(ids), leave=ids[1:])  # takes the first label away
    found = demur(*command, "--out", tmp_path / "b.jsonl", "--labels", first, "--json")
    told = json.loads(found.out)
    assert (told["draws"], told["early"]) == (0, 19)
    assert ids[0] in (tmp_path / "b.jsonl").read_text()


@pytest.mark.parametrize(
    ("goal", "message"),
    [
        ("refusal_rate <= 0.1", "needs no labels"),
        ("false_refusal[contrast] <= 0.1", "speaks of a slice"),
        ("f1 max", "promises nothing"),
        ("missed_refusal[nothing] <= 0.1", "nothing"),
    ],
)
def test_goals_that_cannot_be_audited_are_one_clear_error(demur, run, tmp_path, goal, message):
    scores = RunFolder(run).scores("test")
    found = demur("audit", run, "--goal", goal, "--scores", scores, "--out", tmp_path / "o.jsonl")
    assert found.code == 2
    assert message in found.err


def test_labels_of_requests_that_were_not_drawn_and_a_changed_question_are_refused(
    demur, run, tmp_path
):
    out, own = tmp_path / "o.jsonl", tmp_path / "own.jsonl"
    command = ("audit", run, "--goal", "false_refusal <= 0.3", "--scores")
    command = (*command, RunFolder(run).scores("test"), "--out", out)
    assert demur(*command, "--batch", 5).code == 0
    drawn = {json.loads(line)["id"] for line in out.read_text().splitlines()}
    other = next(i for i in truth(run) if i not in drawn)
    own.write_text(json.dumps({"id": other, "label": "respond"}) + "\n")
    refused = demur(*command, "--labels", own)
    assert refused.code == 2
    assert "were not drawn" in refused.err
    assert "with confidence 0.95, not 0.9" in demur(*command, "--confidence", 0.9).err
    two = [{"id": i, "label": label} for i in drawn for label in ("respond", "safety")]
    own.write_text("".join(json.dumps(row) + "\n" for row in two))
    assert "has two labels" in demur(*command, "--labels", own).err


def test_labels_that_people_gave_are_never_written_over(demur, run, tmp_path):
    out, scores = tmp_path / "o.jsonl", RunFolder(run).scores("test")
    command = ("audit", run, "--goal", "false_refusal <= 0.3", "--scores", scores, "--batch", 5)
    assert demur(*command, "--out", out).code == 0
    assert demur(*command, "--out", out).code == 0  # nobody has labelled it yet
    label(out, truth(run))
    before = out.read_bytes()
    for labels in ((), ("--labels", out)):
        lost = demur(*command, "--out", out, *labels)
        assert (lost.code, out.read_bytes()) == (2, before)
        assert "holds 5 labels, which would be lost" in lost.err
    assert "no file of requests to label" in demur(*command, "--out", scores).err
