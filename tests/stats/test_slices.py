import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from demur.base.errors import DataError, GoalError
from demur.core.goals.parse import parse_goal, parse_goals
from demur.core.rates import Rate, Slice, mix_words, too_small, worst, worst_words
from demur.core.taxonomy import Category, Taxonomy
from demur.stats.labelled import LabelledScores, traits_from
from demur.stats.slices import expand_slices
from demur.stats.thresholds.certify import CertifyOptions, certify
from demur.stats.thresholds.explain import what_would_do
from demur.stats.thresholds.losses import grouped_scores, losses_of
from demur.stats.thresholds.results import Uncertified
from demur.stats.thresholds.solve import solve
from tests.builders import policy, simulated_rows

SOURCES = ("mine", "theirs, too")


def sliced(n=900, k=3, seed=0, signal=3.0):
    """Rows whose kind and source are known; contrast rows are a tenth of those to be answered."""
    rows = simulated_rows(n, k, seed, signal)
    rng = np.random.default_rng(seed)
    names = np.array(["none", *policy(k).taxonomy.names])
    contrast_N = rng.random(n) < 0.1
    kind_N = np.where(rows.label_N > 0, "refusal", np.where(contrast_N, "contrast", "benign"))
    values = {
        "kind": kind_N,
        "category": names[rows.label_N],
        "source": rng.choice(SOURCES, n),
    }
    traits = traits_from({facet: value_N.tolist() for facet, value_N in values.items()})
    return LabelledScores(table=rows.table, label_N=rows.label_N, traits=traits)


def rate_at(goal, thresholds, rows, template):
    grouped = grouped_scores(template, rows, shared=False)
    (loss,) = losses_of([goal], template, grouped, 0)
    return loss.rate(grouped.refused(thresholds), np.ones(len(rows.label_N), dtype=bool))


def test_a_slice_counts_its_own_rows_only():
    rows, template = sliced(), policy(3)
    goal = parse_goal('false_refusal[contrast, source="theirs, too"] <= 0.1')
    seen = rate_at(goal, [0.3] * 3, rows, template)
    own_N = (
        (rows.label_N == 0)
        & (rows.traits.of("kind") == "contrast")
        & (rows.traits.of("source") == "theirs, too")
    )
    refused_N = np.exp(rows.table.logp_NC[:, 1:].max(axis=1)) >= 0.3
    assert seen == Rate(hits=int((own_N & refused_N).sum()), of=int(own_N.sum()))
    assert 0 < seen.of < (rows.label_N == 0).sum() / 10


def test_in_every_means_one_goal_for_each_slice_that_the_rows_have():
    rows, template = sliced(), policy(3)
    kinds = expand_slices(parse_goals("false_refusal <= 0.1 in every kind soft 2"), template, rows)
    assert [g.risk for g in kinds] == ["false_refusal[kind=benign]", "false_refusal[kind=contrast]"]
    assert {g.soft for g in kinds} == {2}
    sources = expand_slices(
        parse_goals("missed_refusal[safety] <= 0.4 in every source"), template, rows
    )
    assert [g.where for g in sources] == [(("source", (name,)),) for name in SOURCES]
    assert {g.category for g in sources} == {"safety"}
    categories = expand_slices(
        parse_goals("missed_refusal <= 0.4 in each category"), template, rows
    )
    assert [g.category for g in categories] == list(template.taxonomy.names)


def test_every_text_made_for_a_slice_reads_back_as_that_goal():
    goals = expand_slices(
        parse_goals(
            "false_refusal <= 0.1 in every source; missed_refusal <= 40% in every source soft"
        ),
        policy(3),
        sliced(),
    )
    for goal in goals:
        again = parse_goal(goal.text)
        assert (again.where, again.category, again.level, again.soft) == (
            goal.where,
            goal.category,
            goal.level,
            goal.soft,
        )
        assert parse_goal(f"{goal.risk} <= 0.1").risk == goal.risk


def test_a_slice_with_a_goal_of_its_own_keeps_it():
    goals = expand_slices(
        parse_goals("false_refusal <= 0.05 in every kind; false_refusal[contrast] <= 0.2"),
        policy(3),
        sliced(),
    )
    assert {g.risk: g.level for g in goals} == {
        "false_refusal[kind=benign]": 0.05,
        "false_refusal[kind=contrast]": 0.2,
    }


@pytest.mark.parametrize(
    ("goal", "says", "hint"),
    [
        ("false_refusal[source=mime] <= 0.1", "no row is of source 'mime'", "did you mean 'mine'"),
        ("false_refusal[safty] <= 0.1", "unknown category 'safty'", "did you mean 'safety'"),
    ],
)
def test_an_unknown_slice_is_named_with_a_suggestion(goal, says, hint):
    with pytest.raises(GoalError) as e:
        certify(parse_goals(goal), policy(3), sliced(), CertifyOptions())
    assert says in e.value.message
    assert hint in e.value.hint


def test_a_category_that_is_called_like_a_kind_is_never_guessed():
    names = ("contrast", "other")
    taxonomy = Taxonomy(
        name="own",
        respond_token="[r]",
        categories=tuple(Category(name=n, token=f"[{n}]", description=n) for n in names),
    )
    template = policy(2).__class__(
        name="own", taxonomy=taxonomy, rule="heaviest", categories=policy(2).categories
    )
    rows = sliced(k=2)
    with pytest.raises(GoalError, match="is a kind of rows and a category") as e:
        expand_slices(parse_goals("false_refusal[contrast] <= 0.1"), template, rows)
    assert "[kind=contrast]" in e.value.hint
    assert "[category=contrast]" in e.value.hint
    (kind,) = expand_slices(parse_goals("false_refusal[kind=contrast] <= 0.1"), template, rows)
    (category,) = expand_slices(
        parse_goals("false_refusal[category=contrast] <= 0.1"), template, rows
    )
    assert (kind.category, category.where) == (None, ())
    assert kind.risk != category.risk
    assert parse_goal(f"{category.risk} <= 0.1").category == "contrast"


def test_rows_without_traits_have_no_slices():
    with pytest.raises(DataError, match="say nothing but their labels"):
        certify(
            parse_goals("false_refusal[contrast] <= 0.1"),
            policy(3),
            simulated_rows(200, 3, 1),
            CertifyOptions(),
        )


def test_a_certificate_of_several_slices_holds_each_and_says_its_mix():
    rows, template = sliced(3000), policy(3)
    goals = parse_goals(
        "false_refusal <= 0.2 in every source; false_refusal[contrast] <= 0.2; f1 max"
    )
    made = solve(goals, template, rows, CertifyOptions(confidence=0.9), data_digest="d")
    assert [p.status for p in made.promises] == ["certified"] * 3 + ["measured"]
    for promise in made.promises[:3]:
        assert promise.mix
        by_kind = [s for s in promise.mix if s.facet == "kind"]
        assert sum(s.rate.of for s in by_kind) == promise.rate.of
        assert sum(s.rate.hits for s in by_kind) == promise.rate.hits


def test_a_goal_about_one_slice_alone_leaves_the_others_free():
    rows, template = sliced(3000), policy(3)
    alone = solve(
        [parse_goal("false_refusal[contrast] <= 0.1")],
        template,
        rows,
        CertifyOptions(confidence=0.9, method="shared"),
        data_digest="d",
    )
    both = parse_goals("false_refusal[contrast] <= 0.1; false_refusal <= 0.02")
    beside = solve(
        both, template, rows, CertifyOptions(confidence=0.9, method="shared"), data_digest="d"
    )
    assert alone.categories[0].threshold <= beside.categories[0].threshold
    every = [parse_goal("false_refusal <= 0.1 in every kind")]
    each = solve(
        every, template, rows, CertifyOptions(confidence=0.9, method="shared"), data_digest="d"
    )
    assert [p.risk for p in each.promises] == [
        "false_refusal[kind=benign]",
        "false_refusal[kind=contrast]",
    ]


def test_a_slice_with_too_few_rows_says_how_many_would_do():
    rows = sliced(200)
    of = int((rows.traits.of("kind") == "contrast").sum())
    found = certify(
        parse_goals("false_refusal[contrast] <= 0.05"), policy(3), rows, CertifyOptions()
    )
    assert isinstance(found, Uncertified)
    assert (found.rows, found.rows_needed) == (of, 59)
    assert f"without an error 59 rows of its kind could do, {of} are there" in what_would_do(found)
    assert what_would_do(found).endswith("or ask for a wider slice")


def by_tenant(**counts):
    """Rows to be answered of tenants, so many each, and as many again to be refused."""
    names = [name for name, n in counts.items() for _ in range(2 * n)]
    rows = simulated_rows(len(names), 3, 0, 3.0)
    label_N = np.where(np.arange(len(names)) % 2, rows.label_N.clip(1), 0)
    traits = traits_from({"tenant": names})
    return LabelledScores(table=rows.table, label_N=label_N, traits=traits)


def test_small_slices_are_all_named_with_what_to_ask_instead():
    rows = by_tenant(big=400, huge=900, one=20, two=18, three=5)
    goals = parse_goals("false_refusal <= 0.1 in every tenant")
    found = certify(goals, policy(3), rows, CertifyOptions())
    assert isinstance(found, Uncertified)
    assert found.reason == (
        "3 of 5 slices have too few rows even without an error: "
        "false_refusal[tenant=one] has 20 rows and needs 29, "
        "false_refusal[tenant=three] has 5 rows and needs 29, "
        "false_refusal[tenant=two] has 18 rows and needs 29"
    )
    instead = (
        "false_refusal[tenant=big] <= 0.1; false_refusal[tenant=huge] <= 0.1; "
        "false_refusal[tenant=one+three+two] <= 0.1"
    )
    assert what_would_do(found).endswith(
        f"name the slices that matter and pool small ones: {instead}"
    )
    again = certify(parse_goals(instead), policy(3), rows, CertifyOptions())
    assert not isinstance(again, Uncertified) or "too few rows" not in again.reason


def test_a_certificate_says_how_many_slices_it_holds_and_what_each_was_tested_at():
    rows = by_tenant(big=400, huge=900)
    every = "false_refusal <= 0.3 in every tenant"
    one_sided, both = (
        certify(parse_goals(text), policy(3), rows, CertifyOptions(method="shared"))
        for text in (every, f"{every}; missed_refusal <= 0.9")
    )
    words = "; 2 slices, each tested at delta 0.05, all together 95%"
    assert one_sided.certified.method.endswith(words)
    words = "; 2 slices and 1 other goal, each tested at delta 0.025, all together 95%"
    assert both.certified.method.endswith(words)


def test_every_slice_of_a_facet_that_no_row_says_is_an_error():
    with pytest.raises(GoalError, match="says its tenant") as e:
        certify(
            parse_goals("false_refusal <= 0.1 in every tenant"),
            policy(3),
            sliced(),
            CertifyOptions(),
        )
    assert "column 'tenant'" in e.value.hint


def test_rows_without_a_value_are_a_slice_of_their_own():
    rows = by_tenant(acme=300, none=300)
    goals = expand_slices(parse_goals("false_refusal <= 0.1 in every tenant"), policy(3), rows)
    assert [g.risk for g in goals] == ["false_refusal[tenant=acme]", "false_refusal[tenant=none]"]


def parts(*counts):
    return tuple(
        Slice(facet="kind", name=f"k{n}", rate=Rate(hits=h, of=of))
        for n, (h, of) in enumerate(counts)
    )


def test_the_worst_slice_is_the_one_that_is_most_surely_bad():
    assert worst(parts((1, 1), (9, 39), (60, 1400))).name == "k1"
    assert worst(parts((0, 40), (0, 3))).name == "k1"
    assert worst(parts((3, 40))) is None
    words = worst_words(parts((9, 39), (60, 1400)), 0.05)
    assert words.startswith("kind k0, 9 of 39: 23.1% (95% 11.1% to 39.3%)")
    assert "39 rows are too few to bound it at 0.05, 59 without an error would do" in words
    assert mix_words(parts((9, 39), (60, 1400))) == "kind k1 97%, k0 3%"


@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(1, 400)), min_size=2, max_size=6),
    st.sampled_from((0.01, 0.1)),
)
def test_slices_called_too_small_cannot_be_bounded_even_without_an_error(counts, level):
    mix = parts(*((min(h, of), of) for h, of in counts))
    assert {s.name for s in too_small(mix, level)} == {
        s.name for s in mix if (1 - level) ** s.rate.of > 0.05
    }
