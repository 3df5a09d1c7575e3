"""Twins: which rows have one, which refusal it is, and what is refused."""

from dataclasses import replace

import pytest

from demur.base.errors import ConfigError, TaxonomyError
from demur.core.example import Example, Message
from demur.core.taxonomy import coconot, single
from demur.core.training.settings import TrainSettings, cpu, learnt, tiny
from demur.core.training.summary import summary_lines, twins_line
from demur.core.training.twins import TwinSettings, has_twin, make_twins

ALL = TwinSettings(share=1.0)


def row(name: str, kind: str = "benign", category: str | None = None, **more: object) -> Example:
    reply = more.pop("reply", f"reply of {name}")
    asked = [Message(role="user", content=f"ask {name}")]
    said = [Message(role="assistant", content=str(reply))] if reply is not None else []
    return Example(
        id=name, source="t", messages=(*asked, *said), kind=kind, category=category, **more
    )


def refusals() -> list[Example]:
    return [row(f"no {name} {n}", "refusal", name) for name in coconot().names for n in range(3)]


def test_a_row_that_is_to_be_refused_never_has_a_twin_and_others_need_a_reply_of_their_own():
    assert has_twin(row("a"), ALL, 0)
    assert has_twin(row("b", "contrast", "safety"), ALL, 0)
    # whatever its category, and also where it carries the beginning of an answer
    for name in coconot().names:
        assert not has_twin(row("c", "refusal", name, prefix="Well, first"), ALL, 0)
    assert not has_twin(row("d", reply=None), ALL, 0)
    assert not has_twin(row("e", reply="  "), ALL, 0)
    assert not has_twin(row("f", traits=(("rewrite", "padding"),)), ALL, 0)
    assert not has_twin(row("g"), None, 0)


def test_no_twin_is_made_of_a_refusal_and_every_text_comes_from_one():
    rows = [*refusals(), *(row(str(n)) for n in range(50)), row("e", "contrast", "incomplete")]
    twins = make_twins(rows, coconot(), ALL, 0)
    assert {t.example.id for t in twins} == {e.id for e in rows if e.kind != "refusal"}
    texts = {(e.category, e.reply) for e in refusals()}
    assert {(t.category, t.text) for t in twins} <= texts
    for twin in twins:
        assert twin.messages[:-1] == twin.example.prompt
        assert twin.messages[-1].content == twin.text
    assert {t.category for t in twins if t.example.kind == "contrast"} == {"incomplete"}


def test_draws_depend_on_the_seed_and_the_rows_id_alone():
    rows = [*refusals(), *(row(str(n)) for n in range(400))]
    half = TwinSettings(share=0.5)
    one = {t.example.id: (t.category, t.text) for t in make_twins(rows, coconot(), half, 3)}
    again = make_twins([*reversed(rows), row("new")], coconot(), half, 3)
    assert {t.example.id: (t.category, t.text) for t in again if t.example.id != "new"} == one
    assert len(one) == pytest.approx(200, abs=40)
    # a smaller share is a part of a larger one, and every category refuses some
    assert {t.example.id for t in make_twins(rows, coconot(), TwinSettings(share=0.2), 3)} < {*one}
    assert {category for category, _ in one.values()} == set(coconot().names)
    other = {t.example.id: (t.category, t.text) for t in make_twins(rows, coconot(), half, 4)}
    assert other != one


def test_a_refusal_of_the_rows_own_group_is_taken_first_and_rewrites_lend_no_text():
    rows = [
        *refusals(),
        row("pair", "refusal", "safety", group="g", reply="not these knives"),
        row("said", "refusal", "safety", traits=(("rewrite", "case"),), reply="REWRITTEN"),
        row("twin", "contrast", "safety", group="g"),
        *(row(str(n), "contrast", "safety") for n in range(60)),
    ]
    found = {t.example.id: t.text for t in make_twins(rows, coconot(), ALL, 0)}
    assert found["twin"] == "not these knives"
    assert "REWRITTEN" not in found.values()
    assert len(set(found.values())) == 4  # the others draw from all


def test_the_operators_texts_come_before_those_of_rows_and_a_foreign_category_is_drawn():
    own = TwinSettings(share=1.0, texts={"safety": ("That is not for me.",)})
    rows = [*refusals(), *(row(str(n), "contrast", "safety") for n in range(9))]
    assert {t.text for t in make_twins(rows, coconot(), own, 0)} == {"That is not for me."}
    everything = TwinSettings(share=1.0, texts={"refuse": ("No.",)})
    (twin,) = make_twins([row("a", "contrast", "safety")], single(), everything, 0)
    assert (twin.category, twin.text) == ("refuse", "No.")


def test_a_category_without_a_text_and_rows_without_twins_are_one_error_each():
    rows = [*refusals(), row("a")]
    with pytest.raises(ConfigError, match="no refusal text for safety: no training row") as e:
        make_twins([r for r in rows if r.category != "safety"], coconot(), ALL, 0)
    assert "[train.twins.texts] safety" in (e.value.hint or "")
    with pytest.raises(ConfigError, match="of 1 training rows to be answered 0 have a reply"):
        make_twins([*refusals(), row("b", reply=None)], coconot(), ALL, 0)
    with pytest.raises(TaxonomyError, match="unknown category 'safty'"):
        make_twins(rows, coconot(), TwinSettings(texts={"safty": ("No.",)}), 0)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"share": 0.0}, "share = 0.0"),
        ({"share": 1.5}, "share = 1.5"),
        ({"tokens": 0}, "tokens = 0"),
        ({"texts": {"safety": ()}}, "texts.safety"),
        ({"texts": {"safety": ("No.", " ")}}, "texts.safety"),
    ],
)
def test_numbers_out_of_range_and_empty_texts_are_refused(wrong, message):
    with pytest.raises(ConfigError, match=message):
        TwinSettings(**wrong)


def test_what_twins_cannot_be_learnt_with_is_refused():
    with pytest.raises(ConfigError, match=r"packing and train\.twins"):
        TrainSettings(packing=True, twins=ALL)
    with pytest.raises(ConfigError, match=r"tokens = 512 is not below train\.max_length = 512"):
        replace(cpu(), twins=TwinSettings(tokens=512))
    with pytest.raises(ConfigError, match="opening_weight"):
        TrainSettings(opening_weight=0.0)


def test_receipts_of_before_hold_and_twins_change_what_is_learnt():
    assert not {"twins", "opening_weight", "opening_tokens"} & set(learnt(tiny()))
    assert learnt(replace(tiny(), twins=ALL))["twins"] == {"share": 1.0, "tokens": 16, "texts": {}}
    assert learnt(replace(tiny(), opening_weight=4.0)) != learnt(tiny())


def test_the_summary_counts_twins_where_there_are_some():
    assert twins_line({}) is None
    assert "twins: 1,200 rows" in summary_lines({"twin_rows": 1200})[0]
