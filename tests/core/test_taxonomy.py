import pytest

from demur.base.errors import TaxonomyError
from demur.core.taxonomy import RESPOND, Category, Taxonomy, coconot, preset, single
from tests.builders import taxonomy


def made_of(*names_and_tokens, respond="[respond]"):
    categories = tuple(Category(name=n, token=t, description="") for n, t in names_and_tokens)
    return Taxonomy(name="t", respond_token=respond, categories=categories)


def test_the_published_tokens_are_spelt_as_published():
    assert coconot().tokens == (
        "[respond]",
        "[Humanizing requests]",
        "[Incomplete requests]",
        "[Indeterminate requests]",
        "[Requests with safety concerns]",
        "[Unsupported requests]",
    )
    assert single().tokens == ("[respond]", "[refuse]")


def test_columns_are_respond_then_the_categories_in_order():
    t = taxonomy(3)
    assert t.choices == (RESPOND, *t.names)
    assert [t.column(c) for c in (None, *t.choices)] == [0, 0, 1, 2, 3]


def test_an_unknown_category_is_answered_with_the_closest_known_one():
    with pytest.raises(TaxonomyError, match=r"'safty'.*\n.*did you mean 'safety'"):
        taxonomy(2).index("safty")
    with pytest.raises(TaxonomyError, match="known: safety, humanizing"):
        taxonomy(2).column("xyz")


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ((), "no category"),
        ((("a", "[a]"), ("a", "[b]")), "'a' occurs 2 times"),
        ((("a", "[a]"), ("b", "[a]")), r"'\[a\]' occurs 2 times"),
        ((("a", "[respond]"),), r"'\[respond\]' occurs 2 times"),
        ((("", "[a]"),), "is empty"),
        ((("a", " [a]"),), "outer white space"),
        ((("respond", "[a]"),), "names the answer token"),
    ],
)
def test_categories_that_cannot_stand_together_are_refused(parts, message):
    with pytest.raises(TaxonomyError, match=message):
        made_of(*parts)


def test_an_unknown_preset_lists_the_known_ones():
    assert preset("coconot") == coconot()
    with pytest.raises(TaxonomyError, match="single, coconot"):
        preset("coconut")
