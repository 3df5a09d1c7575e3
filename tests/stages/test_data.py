import hashlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from demur.base.errors import ArtifactError, ConfigError, DataError
from demur.core.example import SPLITS, Example, Message, prompt_key
from demur.core.taxonomy import Category, Taxonomy, coconot, single
from demur.stages import data
from demur.store.rows import read_examples
from demur.store.run import RunFolder

TAXONOMY = Taxonomy(
    name="two",
    respond_token="[respond]",
    categories=(
        Category(name="safety", token="[s]", description="Harm."),
        Category(name="unsupported", token="[u]", description="Live data."),
    ),
)


@dataclass(frozen=True)
class Rows:
    """A source that holds its rows."""

    rows: tuple

    def read(self):
        return iter(self.rows)


def row(name, text, kind="benign", reply="Yes.", **fields):
    category = fields.pop("category", None if kind == "benign" else "safety")
    turns = [Message(role="user", content=text)]
    if reply is not None:
        turns.append(Message(role="assistant", content=reply))
    return Example(
        id=name, source="s", messages=tuple(turns), kind=kind, category=category, **fields
    )


def corpus(n=120):
    """Unlike prompts of all kinds in both categories; refusal and contrast k share a group."""
    rows = []
    for k in range(n):
        category = ("safety", "unsupported")[k % 2]
        rows.append(
            row(
                f"r{k}",
                f"refuse{k} alpha{k} beta{k} gamma{k}",
                "refusal",
                group=f"g{k}",
                category=category,
            )
        )
        rows.append(
            row(
                f"c{k}",
                f"answer{k} delta{k} eps{k} zeta{k}",
                "contrast",
                group=f"g{k}",
                category=category,
            )
        )
        rows.append(row(f"b{k}", f"plain{k} eta{k} theta{k} iota{k}"))
    return rows


def prepare(rows, config=None, taxonomy=TAXONOMY):
    return data.prepare(config or data.Config(), taxonomy, rows)


def ids(splits):
    return {split: {e.id for e in rows} for split, rows in splits.items()}


def test_a_group_never_crosses_splits():
    splits, summary = prepare(corpus())
    where = {e.id[1:]: split for split in SPLITS for e in splits[split] if e.id[0] == "r"}
    assert all(
        where[e.id[1:]] == split for split in SPLITS for e in splits[split] if e.id[0] == "c"
    )
    assert sum(summary.pairs.values()) == 120
    assert min(summary.pairs.values()) > 0


def test_linked_rows_carry_one_group_over_all_sources():
    words = [f"w{k}" for k in range(12)]
    copies = [row(f"n{k}", " ".join([*words[:11], f"own{k}"])) for k in range(5)]
    copies[1] = replace(copies[1], source="t", group="t:b")
    copies[2] = replace(copies[2], group="s:a")
    rows = [row("other", "quite another question", group="t:b"), row("alone", "by itself here")]
    found = {e.id: e for own in prepare([*corpus(), *copies, *rows])[0].values() for e in own}
    family = [found[e.id] for e in (*copies, rows[0])]
    assert {e.group for e in family} == {"s:a"}
    assert [e.source_group for e in family] == [None, "t:b", None, None, None, "t:b"]
    assert found["alone"].group is None
    assert found["r0"].group == "g0"
    assert found["r0"].source_group is None


def test_near_copies_without_a_group_get_a_name_that_stays():
    words = [f"w{k}" for k in range(12)]
    copies = [row(f"n{k}", " ".join([*words[:11], f"own{k}"])) for k in range(5)]

    def names(rows):
        return {e.group for own in prepare(rows)[0].values() for e in own if e.id[0] == "n"}

    (name,) = names([*corpus(), *copies])
    assert name
    assert names([*(replace(e, id=f"n-{e.id}") for e in reversed(copies)), *corpus()]) == {name}


def test_pairs_count_the_groups_of_the_sources_whatever_is_linked():
    rows = [
        row(
            f"{kind[0]}p{n}",
            f"please do the {kind} thing about it number n{n}",
            kind,
            group=f"p{n}",
        )
        for n in range(5)
        for kind in ("refusal", "contrast")
    ]
    splits, summary = prepare([*corpus(), *rows])
    assert sum(summary.pairs.values()) == 125
    assert len({e.group for own in splits.values() for e in own if e.id[1] == "p"}) == 1


def test_a_session_stays_together_and_a_prompt_of_many_sessions_links_none():
    rows = []
    for n in range(60):
        rows += [
            row(f"a{n}", f"ask{n} rho{n} sigma{n} tau{n}", session=f"s{n}"),
            row(f"d{n}", f"add{n} phi{n} chi{n} psi{n}", "refusal", session=f"s{n}"),
        ]
    rows += [row(f"hi{n}", "hi", session=f"s{n}") for n in range(6)]
    # a script that was run twice: its prompts always come together
    rows += [
        row(f"x{n}-{k}", f"script line {n}", session=f"k{k}") for n in range(3) for k in range(2)
    ]
    splits, summary = prepare([*corpus(), *rows])
    found = {e.id: (s, e) for s in SPLITS for e in splits[s]}
    for n in range(60):
        assert found[f"a{n}"][0] == found[f"d{n}"][0]
        assert found[f"a{n}"][1].unit == found[f"d{n}"][1].unit is not None
    hi = found["hi0"][1]
    assert (hi.count, hi.group) == (6, None)
    assert hi.session.startswith("6 sessions ")
    assert {found[f"x{n}-0"][1].count for n in range(3)} == {2}
    assert len({found[f"x{n}-0"][1].group for n in range(3)}) == 1
    assert sum(summary.units.values()) == 240 + 60 + 1 + 1


def test_near_copies_never_cross_splits():
    words = [f"w{k}" for k in range(12)]
    copies = [row(f"n{k}", " ".join([*words[:11], f"own{k}"])) for k in range(30)]
    splits, _ = prepare([*corpus(), *copies])
    assert sorted(len([e for e in splits[s] if e.id[0] == "n"]) for s in SPLITS) == [0, 0, 30]


@settings(max_examples=25, deadline=None)
@given(st.sets(st.integers(0, 359), max_size=60), st.integers(0, 5))
def test_taking_rows_away_moves_few_other_rows(gone, seed):
    rows = [replace(e, group=None) for e in corpus()]
    config = data.Config(seed=seed)
    everything = ids(prepare(rows, config)[0])
    kept = [e for n, e in enumerate(rows) if n not in gone]
    fewer = ids(prepare(kept, config)[0])
    there = {e.id for e in kept}
    moved = {
        i for split, names in everything.items() for i in names & there if i not in fewer[split]
    }
    # those beside the cuts, which move as the counts do
    assert len(moved) <= 2 * len(gone) ** 0.5 + 6
    assert not gone or len(moved) < len(there) / 8


def test_split_sizes_follow_the_shares():
    splits, _ = prepare(
        [replace(e, group=None) for e in corpus(1000)],
        data.Config(calibrate_share=0.3, test_share=0.1),
    )
    assert len(splits["calibrate"]) == pytest.approx(900, abs=2)
    assert len(splits["test"]) == pytest.approx(300, abs=2)


def test_another_seed_splits_otherwise():
    assert ids(prepare(corpus(), data.Config(seed=1))[0]) != ids(
        prepare(corpus(), data.Config(seed=2))[0]
    )


def test_a_sources_own_splits_are_kept():
    rows = [replace(e, split=SPLITS[int(e.id[1:]) % 3]) for e in corpus()]
    splits, summary = prepare(rows)
    assert all(e.split == split for split in SPLITS for e in splits[split])
    assert sum(map(len, splits.values())) == len(rows)
    assert summary.leaked == ()


@pytest.mark.parametrize(
    ("nearer", "further"), [("train", "test"), ("train", "calibrate"), ("calibrate", "test")]
)
def test_rows_that_leak_are_dropped_from_the_split_nearer_to_training(nearer, further):
    prompt = "nearly the very same question"
    leaks = [row("near", prompt, split=nearer), row("far", f"{prompt} as", split=further)]
    grouped = [
        row("near2", "one text", group="x", split=nearer),
        row("far2", "another text", group="x", split=further),
    ]
    splits, summary = prepare([*corpus(), *leaks, *grouped])
    assert {"far", "far2"} <= ids(splits)[further]
    assert summary.leaked == ("near", "near2")


def test_requests_of_one_prompt_may_be_in_both_held_out_splits_and_not_in_train_too():
    same = [row(split, "the very same question", split=split) for split in SPLITS]
    splits, summary = prepare([*corpus(), *same])
    assert summary.leaked == ("train",)
    (left,), (right,) = ([e for e in splits[s] if e.id == s] for s in ("calibrate", "test"))
    assert left.group == right.group is not None


def test_a_leak_can_be_an_error_instead():
    leaks = [row("near", "the same", split="train"), row("far", "the same", split="test")]
    with pytest.raises(DataError, match="'near'") as e:
        prepare([*corpus(), *leaks], data.Config(on_leak="error"))
    assert "on_leak" in e.value.hint


def test_a_row_without_split_follows_the_held_out_row_it_hangs_on():
    rows = [row("held", "the same question here", split="test"), row("free", "one more", group="x")]
    rows.append(row("tie", "The same question, here?!", group="x", reply=None))
    splits, summary = prepare([*corpus(), *rows])
    assert {"held", "free"} <= ids(splits)["test"]
    assert (summary.leaked, summary.duplicates) == ((), 1)


def test_a_prompt_is_kept_once_and_rather_with_its_reply():
    rows = [row("first", "What is a lemma?", reply=None), row("second", "what is a lemma", count=3)]
    splits, summary = prepare([*corpus(), *rows])
    (kept,) = (e for s in SPLITS for e in splits[s] if e.id in ("first", "second"))
    assert (kept.id, kept.count, kept.group) == ("second", 4, None)
    assert summary.duplicates == 1
    assert sum(summary.requests.values()) == 364
    assert sum(summary.units.values()) == 120 + 120 + 1  # a pair is one, a row by itself is one


@pytest.mark.parametrize("often", [1, 30])
def test_requests_of_one_prompt_are_counted_apart_where_promises_may_be_about_some(often):
    prompt = "What is a lemma?"
    rows = [
        row("a", prompt, traits=(("tenant", "acme"),), count=often),
        row("a2", prompt, traits=(("tenant", "acme"),), count=often),
        replace(row("b", prompt, count=2 * often), source="t"),
        row("c", prompt, "contrast", count=2 * often),
    ]
    if often == 1:
        rows = [replace(e, split="test") for e in rows]
    splits, summary = prepare([*corpus(), *rows])
    found = [e for e in splits["test"] if e.text == prompt]
    shares = [2, 2, 2] if often == 1 else [12, 12, 12]
    assert [e.count for e in found] == shares
    assert [(e.source, e.kind, len(e.traits)) for e in found] == [
        ("s", "benign", 1),
        ("t", "benign", 0),
        ("s", "contrast", 0),
    ]
    assert len({e.group for e in found}) == 1
    assert summary.duplicates == 1 if often == 1 else summary.frequent == ("a",)


def test_contradictory_labels_are_dropped_from_train_and_named():
    rows = [
        row("yes", "Is it raining now?", split="train"),
        row("no", "is it raining NOW", "refusal", category="unsupported", split="train"),
    ]
    splits, summary = prepare([*corpus(), *rows])
    assert summary.contradictory == ("yes", "no")
    assert not {"yes", "no"} & set().union(*ids(splits).values())
    assert any("different labels" in w and "'yes'" in w for w in summary.warnings)


@pytest.mark.parametrize("split", ["calibrate", "test"])
def test_a_disputed_prompt_counts_held_out_as_the_share_of_its_labels(split):
    prompt = "Is it raining now?"
    rows = [
        *(row(f"yes{n}", prompt, split=split) for n in range(3)),
        row("no", prompt, "refusal", category="unsupported", split=split, count=2),
    ]
    splits, summary = prepare([*corpus(), *rows])
    yes, no = (e for e in splits[split] if e.text == prompt)
    assert (yes.id, yes.label, yes.count) == ("yes0", None, 3)
    assert (no.id, no.label, no.count) == ("no", "unsupported", 2)
    assert yes.group == no.group is not None
    assert summary.contradictory == ("yes0", "yes1", "yes2", "no")
    assert summary.disputed == {**dict.fromkeys(SPLITS, 0), split: 1}
    assert summary.duplicates == 2


def test_disputed_prompts_are_split_by_the_shares_and_move_no_other_row():
    rows = [
        row(f"{kind}{n}", f"mu{n} nu{n} xi{n} pi{n}", kind)
        for n in range(40)
        for kind in ("benign", "refusal")
    ]
    splits, _ = prepare([*corpus(), *rows])
    whole = ids(prepare(corpus())[0])
    assert all(whole[s] <= ids(splits)[s] for s in SPLITS)
    assert [len(splits[s]) - len(whole[s]) for s in SPLITS] == [0, 2 * 6, 2 * 8]


def test_a_frequent_prompt_is_divided_between_the_held_out_splits_and_not_trained_on():
    rows = [
        *(row(f"hi{n}", "Hello there!") for n in range(100)),
        row("hey", "Anybody at home?", count=200),
        row("hey2", "anybody at home", "refusal", count=20),
        row("pw", "how do i reset my old password", count=60),
        row("pw2", "how do i reset my old password please"),
    ]
    splits, summary = prepare([*corpus(), *rows])
    found = {
        s: {(e.text, e.label): e for e in splits[s] if e.id[:2] in ("hi", "he", "pw")}
        for s in SPLITS
    }
    assert found["train"] == {}
    counts = {s: {key: e.count for key, e in found[s].items()} for s in SPLITS}
    for split, share in (("calibrate", 0.15), ("test", 0.2)):
        for text, label, requests in (
            ("Hello there!", None, 100),
            ("Anybody at home?", None, 200),
            ("anybody at home", "safety", 20),
            ("how do i reset my old password", None, 60),
        ):
            assert abs(counts[split][text, label] - share * requests) <= 1
    everyone = [e for s in SPLITS for e in splits[s]]
    assert len({e.id for e in everyone}) == len(everyone)
    assert len({e.group for own in found.values() for e in own.values()}) == 3
    assert summary.frequent == ("hi0", "hey", "pw")
    (warning,) = (w for w in summary.warnings if "so often" in w)
    assert warning.startswith("3 prompts, first 'hi0', came so often (381 of 741 requests)")


def test_where_all_prompts_come_alike_none_is_frequent():
    rows = [replace(e, id=f"{e.id}-{n}") for e in corpus() for n in range(10)]
    splits, summary = prepare(rows)
    assert summary.frequent == ()
    assert {e.count for s in SPLITS for e in splits[s]} == {10}
    assert [len(splits[s]) for s in SPLITS] == [len(own) for own in prepare(corpus())[0].values()]


@pytest.mark.parametrize("ratio", [0.0, 0.25, 0.5])
def test_the_contrast_ratio_thins_the_training_rows_only(ratio):
    whole, _ = prepare(corpus())
    splits, summary = prepare(corpus(), data.Config(contrast_ratio=ratio))
    refusals = sum(e.kind == "refusal" for e in splits["train"])
    contrast = sum(e.kind == "contrast" for e in splits["train"])
    assert contrast == round(ratio * refusals)
    assert summary.thinned == len(whole["train"]) - len(splits["train"])
    assert all(ids(splits)[s] == ids(whole)[s] for s in ("calibrate", "test"))


@pytest.mark.parametrize("share", [0.05, 0.2, 0.4, 0.45])
@pytest.mark.parametrize("ratio", [0.0, 0.5, 1.0])
def test_the_refusal_share_is_met_to_the_row(share, ratio):
    splits, _ = prepare(corpus(), data.Config(refusal_share=share, contrast_ratio=ratio))
    refusals = sum(e.kind == "refusal" for e in splits["train"])
    assert abs(refusals - share * len(splits["train"])) <= 1


def test_a_refusal_share_out_of_reach_is_an_error():
    with pytest.raises(DataError, match="cannot be met"):
        prepare(corpus(), data.Config(refusal_share=0.8))


def test_limits_cap_the_training_rows_of_a_kind():
    splits, _ = prepare(corpus(), data.Config(limits={"benign": 7}))
    assert sum(e.kind == "benign" for e in splits["train"]) == 7
    assert sum(e.kind == "benign" for e in splits["test"]) > 0


def test_rows_without_a_reply_stay():
    splits, summary = prepare([replace(e, messages=e.prompt) for e in corpus()])
    assert sum(map(len, splits.values())) == 360
    assert summary.with_reply == {"train": 0, "calibrate": 0, "test": 0}
    assert summary.reply_words["train"] is None


def test_an_empty_category_is_a_warning_that_names_it():
    _, summary = prepare([replace(e, category="safety") if e.category else e for e in corpus()])
    assert sum("'unsupported'" in w for w in summary.warnings) == 3


def test_an_empty_split_is_an_error():
    with pytest.raises(DataError, match="'calibrate' has no rows"):
        prepare([replace(e, split="train" if int(e.id[1:]) % 2 else "test") for e in corpus()])


@pytest.mark.parametrize(("kind", "says"), [("refusal", "refused"), ("benign", "answered")])
def test_a_split_in_which_all_labels_are_equal_is_an_error(kind, says):
    with pytest.raises(DataError, match=f"are to be {says}"):
        prepare([e for e in corpus() if e.kind == kind])


def test_ids_that_occur_twice_are_named():
    with pytest.raises(DataError, match="'r0'"):
        prepare([*corpus(), row("r0", "something else")])


@pytest.mark.parametrize(
    "wrong",
    [
        {"calibrate_share": 0.0},
        {"test_share": 1.0},
        {"calibrate_share": 0.6, "test_share": 0.5},
        {"contrast_ratio": -1.0},
        {"contrast_ratio": float("nan")},
        {"refusal_share": 1.0},
        {"limits": {"benign": -1}},
    ],
)
def test_settings_that_mean_nothing_are_refused(wrong):
    with pytest.raises(ConfigError):
        data.Config(**wrong)


def run(folder, rows=None, taxonomy=TAXONOMY, **options):
    return data.run(
        data.Config(**options), taxonomy, {"mine": Rows(tuple(rows or corpus()))}, RunFolder(folder)
    )


def test_the_stage_writes_what_it_says(tmp_path):
    summary = run(tmp_path)
    folder = RunFolder(tmp_path)
    for split in SPLITS:
        rows = read_examples(folder.split(split))
        assert len(rows) == sum(c.rows for c in summary.counts if c.split == split)
        assert {e.split for e in rows} == {split}
        assert {e.group.partition(":")[0] for e in rows if e.group} == {"mine"}
    assert data.read_summary(folder) == summary
    assert folder.require("data").stage == "data"


def test_the_stage_is_skipped_when_nothing_changed_and_run_when_something_did(tmp_path):
    first = run(tmp_path)
    made = (tmp_path / "data" / "made.json").stat().st_mtime_ns
    assert run(tmp_path) == first
    assert (tmp_path / "data" / "made.json").stat().st_mtime_ns == made
    changed = [*corpus()[1:], row("new", "a new question")]
    assert run(tmp_path, changed).read == 360
    assert (tmp_path / "data" / "made.json").stat().st_mtime_ns > made
    assert run(tmp_path, changed, contrast_ratio=0.0).thinned > 0


def test_a_damaged_artifact_is_made_again(tmp_path):
    run(tmp_path)
    path = RunFolder(tmp_path).split("test")
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    with pytest.raises(ArtifactError, match="has changed"):
        data.read_summary(RunFolder(tmp_path))
    run(tmp_path)
    assert path.read_bytes() == whole


def test_an_unknown_category_names_source_row_and_the_nearest_one(tmp_path):
    with pytest.raises(DataError, match=r"source 'mine': row 'odd'.*'saftey'") as e:
        run(tmp_path, [*corpus(), row("odd", "a b c", "refusal", category="saftey")])
    assert "'safety'" in e.value.hint
    assert not (tmp_path / "data").exists()


def test_a_taxonomy_with_one_category_takes_every_refusal(tmp_path):
    run(tmp_path, taxonomy=single())
    rows = [e for s in SPLITS for e in read_examples(RunFolder(tmp_path).split(s))]
    assert {e.category for e in rows if e.kind != "benign"} == {"refuse"}
    assert {e.subcategory for e in rows if e.kind != "benign"} == {"safety", "unsupported"}


def test_equal_group_names_of_two_sources_are_different_groups(tmp_path):
    mine = tuple(corpus())
    yours = tuple(
        replace(
            e,
            id=f"y{e.id}",
            messages=(replace(e.messages[0], content=f"{e.text} extra stuff here"),),
        )
        for e in corpus()
    )
    data.run(
        data.Config(), TAXONOMY, {"mine": Rows(mine), "yours": Rows(yours)}, RunFolder(tmp_path)
    )
    rows = [e for s in SPLITS for e in read_examples(RunFolder(tmp_path).split(s))]
    assert len({e.group for e in rows if e.group}) == 240


def test_rows_without_a_session_beside_rows_with_one_are_an_error(tmp_path):
    rows = [replace(e, session=f"s{n // 3}") for n, e in enumerate(corpus())]
    with pytest.raises(
        DataError, match=r"source 'mine': 2 of 360 rows have no session, first 'c0'"
    ):
        run(tmp_path, [e if e.id not in ("c0", "b7") else replace(e, session=None) for e in rows])
    assert not (tmp_path / "data").exists()
    run(tmp_path, rows)
    written = read_examples(RunFolder(tmp_path).split("test"))
    assert {e.session.partition(":")[0] for e in written} == {"mine"}


def test_a_stage_that_an_older_version_finished_stays_finished(tmp_path):
    """Before there were sessions and counts, the text of a row ended like this."""
    run(tmp_path)
    state = hashlib.sha256()
    for e in corpus():
        group = None if e.group is None else f"mine:{e.group}"
        state.update(
            f"Example(id={e.id!r}, source={e.source!r}, messages={e.messages!r}, kind={e.kind!r}, "
            f"category={e.category!r}, subcategory={e.subcategory!r}, group={group!r}, "
            f"split={e.split!r})\n".encode()
        )
    assert RunFolder(tmp_path).receipt("data").made_from == {"mine": f"sha256:{state.hexdigest()}"}
    counted = [replace(corpus()[0], count=2), *corpus()[1:]]
    assert run(tmp_path, counted).requests != {}
    assert RunFolder(tmp_path).receipt("data").made_from != {"mine": f"sha256:{state.hexdigest()}"}


def test_a_summary_of_an_older_version_is_read(tmp_path):
    summary = run(tmp_path)
    path, folder = tmp_path / "data" / "summary.json", RunFolder(tmp_path)
    kept = json.loads(path.read_text())
    for name in ("requests", "units", "disputed", "frequent"):
        del kept[name]
    path.write_text(json.dumps(kept))
    receipt = folder.receipt("data")
    folder.finish("data", receipt.settings, receipt.made_from, [tmp_path / f for f in receipt.made])
    old = run(tmp_path)
    assert old == replace(summary, requests={}, units={}, disputed={}, frequent=())
    assert [r[0] for r in data.table(old)[-2:]] == ["all", "pairs"]


def test_sources_without_rows_are_an_error(tmp_path):
    with pytest.raises(DataError, match="no rows"):
        data.run(data.Config(), TAXONOMY, {"mine": Rows(())}, RunFolder(tmp_path))


def test_progress_counts_to_its_total(tmp_path):
    seen = []
    sources = {"mine": Rows(tuple(corpus()))}
    for _ in range(2):
        data.run(
            data.Config(), TAXONOMY, sources, RunFolder(tmp_path), lambda d, t: seen.append((d, t))
        )
    assert seen == [(1, 3), (2, 3), (3, 3), (1, 3), (3, 3)]


def test_the_table_adds_up():
    splits, summary = prepare(corpus())
    header, *body = data.table(summary)
    assert header == ("kind", "category", "train", "calibrate", "test")
    assert [r[:2] for r in body[:3]] == [
        ("refusal", "safety"),
        ("refusal", "unsupported"),
        ("contrast", "safety"),
    ]
    for column, split in enumerate(SPLITS, start=2):
        cells = [int(r[column]) for r in body]
        assert sum(cells[:-4]) == cells[-4] == cells[-3] == len(splits[split])
        assert cells[-2] == summary.units[split]
        assert cells[-1] == summary.pairs[split]


def test_the_built_in_corpus_fills_every_cell():
    from demur.sources.corpus import BuiltinSource

    splits, summary = prepare(list(BuiltinSource().read()), taxonomy=coconot())
    assert summary.warnings == ()
    assert (summary.contradictory, summary.leaked, summary.duplicates) == ((), (), 0)
    seen = {prompt_key(e) for e in splits["train"]}
    assert not any(prompt_key(e) in seen for e in splits["test"])
    assert min(c.rows for c in summary.counts) >= 10


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[2])
import test_data
from pathlib import Path
renamed = Path.replace
def rename_and_die(part, path):
    renamed(part, path)
    os.kill(os.getpid(), signal.SIGKILL)
Path.replace = rename_and_die
test_data.run(Path(sys.argv[1]))
"""


def test_a_kill_between_two_files_leaves_no_receipt_and_the_next_run_finishes(tmp_path):
    here = os.path.dirname(__file__)
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), here], check=False, timeout=60
    )
    assert killed.returncode == -signal.SIGKILL
    folder = RunFolder(tmp_path)
    assert folder.split("train").exists()
    assert not folder.split("test").exists()
    with pytest.raises(ArtifactError, match="is not finished"):
        folder.require("data")
    run(tmp_path)
    assert json.loads((tmp_path / "data" / "summary.json").read_text())["format"] == "demur.data/1"
    assert folder.require("data")


def test_a_small_category_is_split_as_asked_and_warned_about():
    rows = [
        *(replace(e, category="unsupported" if e.category else None) for e in corpus(400)),
        *(
            row(f"s{n}", f"please break the law number {n}", kind="refusal", category="safety")
            for n in range(40)
        ),
    ]
    splits, summary = prepare(rows)
    assert [sum(e.label == "safety" for e in splits[s]) for s in SPLITS] == [26, 6, 8]
    assert any(
        w.startswith("calibrate has few rows of") and "safety 6" in w for w in summary.warnings
    )
    assert any(w.startswith("test has few rows of") and "safety 8" in w for w in summary.warnings)


def test_a_split_that_cannot_have_its_share_is_warned_about():
    words = [f"w{k}" for k in range(12)]
    copies = [row(f"n{k}", " ".join([*words[:11], f"own{k}"])) for k in range(3000)]
    splits, summary = prepare([*corpus(), *copies])
    # whatever a hash says of their first prompt
    assert sum(e.id[0] == "n" for e in splits["train"]) == 3000
    assert any(w.startswith("test has") and "hang together" in w for w in summary.warnings)


def test_rows_that_are_few_by_their_groups_are_warned_about():
    rows = [
        row(
            f"s{n}",
            f"please break the law number {n}",
            "refusal",
            group=f"law{n % 10}",
            split="test",
        )
        for n in range(60)
    ]
    _, summary = prepare([*(e for e in corpus() if e.category != "safety"), *rows])
    assert any("safety 60 (10 independent)" in w for w in summary.warnings)
