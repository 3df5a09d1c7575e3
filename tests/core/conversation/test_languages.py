import pytest
from hypothesis import given
from hypothesis import strategies as st

from demur.core.conversation.languages import preferred_languages, refusal_text
from demur.core.policy import CategoryPolicy

TEXTS = CategoryPolicy(
    on_refuse="No.",
    translations=(("de", "Nein."), ("pt-BR", "Não."), ("zh-Hant", "不。"), ("en", "No, sorry.")),
)


@pytest.mark.parametrize(
    ("languages", "text"),
    [
        ([], "No."),
        (["de"], "Nein."),
        (["de-AT"], "Nein."),
        (["DE-at-1996"], "Nein."),
        (["fr", "de"], "Nein."),
        (["fr", "it"], "No."),
        (["pt"], "No."),  # lookup shortens what is asked for, never what there is
        (["pt-br"], "Não."),
        (["zh-Hant-TW"], "不。"),
        (["zh-Hant-x-private"], "不。"),
        (["en-GB", "de"], "No, sorry."),
    ],
)
def test_the_first_language_that_there_is_a_text_for_wins(languages, text):
    assert refusal_text(TEXTS, languages) == text


def test_a_category_that_lets_the_model_write_has_no_text_in_any_language():
    assert refusal_text(CategoryPolicy(), ["de"]) is None


@pytest.mark.parametrize(
    ("header", "languages"),
    [
        ("", ()),
        ("de", ("de",)),
        ("da, en-gb;q=0.8, en;q=0.7", ("da", "en-gb", "en")),
        ("en;q=0.7,da ; Q=1.000 , fr;q=0.7", ("da", "en", "fr")),
        ("*, de;q=0.5", ("de",)),
        ("de;q=0, fr;q=0.001", ("fr",)),
        ("de;q=2, en;q=x, fr;level=1, ;;, , -, en", ("en",)),
    ],
)
def test_a_header_is_read_in_order_of_preference(header, languages):
    assert preferred_languages(header) == languages


@given(st.text(max_size=60) | st.text(alphabet="ade-;q=0.1,* ", max_size=60))
def test_no_header_is_an_error(header):
    languages = preferred_languages(header)
    assert refusal_text(TEXTS, languages) in {"No.", *(text for _, text in TEXTS.translations)}
