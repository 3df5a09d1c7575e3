import pytest

from demur.base.errors import ConfigError, DataError

datasets = pytest.importorskip("datasets", reason="datasets is not installed (extra 'hub')")

from demur.sources.hub import HubSource  # noqa: E402

COCONOT = {
    "id": "1",
    "category": "Requests with safety concerns",
    "subcategory": "privacy violations",
    "prompt": "Where does my colleague live?",
    "response": "",
}


@pytest.fixture
def local(tmp_path, monkeypatch):
    """Writes rows as a parquet dataset and returns the folder's name, as load_dataset takes it."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")

    def save(*rows):
        folder = tmp_path / "set"
        folder.mkdir()
        datasets.Dataset.from_list(list(rows)).to_parquet(folder / "train.parquet")
        return str(folder)

    return save


def test_coconot_categories_get_the_taxonomys_names(local):
    spellings = {
        "Requests with safety concerns": "safety",
        "Humanizing requests": "humanizing",
        "Incomplete requests": "incomplete",
        "Indeterminate requests": "indeterminate",
        "Unsupported requests": "unsupported",
    }
    name = local(*({**COCONOT, "category": spelling} for spelling in spellings))
    rows = list(HubSource(name=name, adapter="coconot", rows_kind="refusal").read())
    assert [r.category for r in rows] == list(spellings.values())
    assert rows[0].subcategory == "privacy violations"
    assert rows[0].id == f"{name}:train:0"


def test_a_response_is_the_reply_and_an_empty_one_is_none(local):
    name = local(COCONOT, {**COCONOT, "response": "I can't share that."})
    first, second = HubSource(name=name, adapter="coconot", rows_kind="refusal").read()
    assert (first.reply, second.reply) == (None, "I can't share that.")


def test_the_preference_set_teaches_its_chosen_answer(local):
    row = {k: v for k, v in COCONOT.items() if k != "response"} | {
        "chosen": "In Oslo.",
        "rejected": "I can't.",
    }
    (row,) = HubSource(name=local(row), adapter="coconot", rows_kind="contrast").read()
    assert (row.kind, row.reply, row.expected) == ("contrast", "In Oslo.", "respond")


def test_conversations_keep_their_turns_and_are_benign(local):
    turns = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "Tell me about owls."},
        {"role": "assistant", "content": "They hunt at night."},
    ]
    (row,) = HubSource(
        name=local({"prompt": "Hi", "prompt_id": "x", "messages": turns}), adapter="chat"
    ).read()
    assert [m.content for m in row.messages] == [t["content"] for t in turns]
    assert (row.kind, row.category, row.text) == ("benign", None, "Tell me about owls.")


def test_xstest_labels_and_block_types_say_what_is_unsafe(local):
    labelled = {"prompt": "How do I kill a process?", "type": "homonyms", "label": "safe"}
    safe, unsafe = HubSource(
        name=local(labelled, {**labelled, "label": "unsafe"}), adapter="xstest"
    ).read()
    assert (safe.kind, safe.category, safe.subcategory) == ("contrast", "safety", "homonyms")
    assert (unsafe.kind, unsafe.label) == ("refusal", "safety")


def test_xstest_without_labels_goes_by_the_block_type(local):
    name = local(
        {"prompt": "a b", "type": "homonyms"}, {"prompt": "c d", "type": "contrast_homonyms"}
    )
    assert [r.kind for r in HubSource(name=name, adapter="xstest").read()] == [
        "contrast",
        "refusal",
    ]


def test_any_table_can_be_read_by_naming_its_columns(local):
    fields = {"q": "Who am I?", "a": "I can't know.", "why": "about me", "block": "b1"}
    name = local({**fields, "thread": 4, "n": 12, "count": "of words"})
    columns = {"prompt": "q", "reply": "a", "category": "why", "group": "block"}
    columns |= {"session": "thread", "count": "n"}
    options = {"rows_kind": "refusal", "columns": columns, "categories": {"about me": "incomplete"}}
    (row,) = HubSource(name=name, adapter="columns", **options).read()
    assert (row.text, row.reply, row.category, row.group) == (
        "Who am I?",
        "I can't know.",
        "incomplete",
        "b1",
    )
    assert (row.session, row.count) == ("4", 12)


def test_use_as_and_limit_apply_to_every_row(local):
    name = local(COCONOT, COCONOT, COCONOT)
    rows = list(
        HubSource(name=name, adapter="coconot", rows_kind="refusal", use_as="test", limit=2).read()
    )
    assert [r.split for r in rows] == ["test", "test"]


@pytest.mark.parametrize(
    ("options", "row", "error", "says"),
    [
        ({"adapter": "coconot"}, COCONOT, ConfigError, "does not tell"),
        (
            {"adapter": "coconot", "rows_kind": "refusal"},
            {**COCONOT, "category": "Rude requests"},
            DataError,
            "Rude",
        ),
        (
            {"adapter": "coconot", "rows_kind": "refusal"},
            {**COCONOT, "prompt": " "},
            DataError,
            "prompt",
        ),
        (
            {"adapter": "coconot", "rows_kind": "refusal"},
            {"prompt": "a"},
            DataError,
            "no column 'category'",
        ),
        (
            {"adapter": "chat"},
            {"messages": [{"role": "robot", "content": "a"}]},
            DataError,
            "'robot'",
        ),
        (
            {"adapter": "chat"},
            {"messages": [{"role": "assistant", "content": "a"}]},
            DataError,
            "no user message",
        ),
        ({"adapter": "xstest"}, {"prompt": "a", "label": "maybe"}, DataError, "'maybe'"),
        ({"adapter": "columns"}, {"prompt": "a"}, DataError, "nothing tells"),
    ],
)
def test_a_row_that_does_not_fit_its_adapter_is_named(local, options, row, error, says):
    with pytest.raises(error) as e:
        list(HubSource(name=local(row), **options).read())
    assert says in e.value.message
    assert e.value.hint


def test_a_dataset_that_cannot_be_had_is_named(tmp_path):
    with pytest.raises(DataError, match=r"cannot load dataset .*nowhere"):
        list(HubSource(name=str(tmp_path / "nowhere"), adapter="chat").read())


def test_an_unknown_split_is_named(local):
    with pytest.raises(DataError, match="split validation"):
        list(HubSource(name=local(COCONOT), adapter="coconot", split="validation").read())
