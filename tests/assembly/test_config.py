import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from demur.assembly import wiring
from demur.assembly.config import RunConfig, build, build_sources, config_from, load_config
from demur.base.errors import ConfigError
from demur.core.taxonomy import coconot, single
from demur.core.training.settings import TrainSettings, cpu, tiny
from demur.core.training.turn_back import TurnBack
from demur.core.training.twins import TwinSettings
from demur.sources.files import FileSource

EXAMPLES = Path(__file__).parents[2] / "examples"
SOURCE = '[[data.sources]]\nkind = "builtin"\n'
OWN = """
name = "mine"
respond_token = "[ok]"
categories = [{ name = "legal", token = "[legal]", description = "Asks for legal advice." }]
"""


def load(folder, text, **options) -> RunConfig:
    path = folder / "run.toml"
    path.write_text(text)
    return load_config(path, **options)


def find(kind):
    return wiring.import_by_name(kind, wiring.SOURCES, "source")


def test_a_source_is_enough(tmp_path):
    config = load(tmp_path, SOURCE)
    assert (config.name, config.seed, config.threads) == ("run", 0, None)
    assert config.taxonomy == coconot()
    assert config.train == tiny()
    assert list(config.sources) == ["builtin"]


def test_sections_become_the_stages_configs(tmp_path):
    config = load(
        tmp_path,
        SOURCE
        + '[data]\ntest_share = 0.1\nlimits = { benign = 5 }\n[train]\nbase = "some/model"\n',
    )
    assert (config.data.test_share, config.data.limits) == (0.1, {"benign": 5})
    assert config.train == TrainSettings(base="some/model")


def test_the_tiny_model_starts_from_its_own_recipe(tmp_path):
    config = load(tmp_path, SOURCE + "[train]\nepochs = 1\n")
    assert config.train == replace(tiny(), epochs=1.0)


def test_a_recipe_gives_the_settings_that_the_file_does_not(tmp_path):
    config = load(
        tmp_path,
        SOURCE + '[run]\nseed = 3\n[train]\nrecipe = "cpu"\nepochs = 2\nbase = "some/model"\n',
    )
    assert config.train == replace(cpu(seed=3), epochs=2.0, base="some/model")
    assert config_from(config.resolved(), "again", base=tmp_path).train == config.train


def test_a_table_within_a_section_is_a_record_whose_paths_start_at_the_file(tmp_path):
    text = SOURCE + '[train]\nrecipe = "cpu"\n[train.turn_back]\nkept_share = 0.2\n'
    plain = load(tmp_path, text)
    assert plain.train.turn_back == TurnBack(kept_share=0.2)
    assert config_from(plain.resolved(), "again", base=tmp_path).train == plain.train
    file = load(tmp_path, text + 'prefixes = "begun.jsonl"\n').train.turn_back
    assert file == TurnBack(kept_share=0.2, prefixes=tmp_path / "begun.jsonl")
    own = load(tmp_path, text, overrides=["train.turn_back.prefixes=harvest"])
    assert own.train.turn_back == TurnBack(kept_share=0.2, prefixes="harvest")
    assert config_from(own.resolved(), "again", base=tmp_path).train == own.train
    with pytest.raises(ConfigError, match=r"train\.turn_back\..*kept_shar\b"):
        load(tmp_path, text + "kept_shar = 0.1\n")
    with pytest.raises(ConfigError, match=r"kept_share = 2\.0 is not in"):
        load(tmp_path, text.replace("0.2", "2.0"))


def test_texts_of_twins_are_a_table_by_category(tmp_path):
    text = SOURCE + "[train]\nopening_weight = 4.0\n[train.twins]\nshare = 0.25\n"
    own = load(tmp_path, text + '[train.twins.texts]\nsafety = ["Not that."]\n')
    assert own.train.twins == TwinSettings(share=0.25, texts={"safety": ("Not that.",)})
    assert own.train.opening_weight == 4.0
    assert config_from(own.resolved(), "again", base=tmp_path).train == own.train
    with pytest.raises(ConfigError, match=r"train\.twins\..*shar\b"):
        load(tmp_path, text + "shar = 0.1\n")
    with pytest.raises(ConfigError, match=r"safety"):
        load(tmp_path, text + '[train.twins.texts]\nsafety = "Not that."\n')


def test_one_seed_serves_every_stage_that_is_given_none(tmp_path):
    config = load(tmp_path, SOURCE + "[run]\nseed = 7\n[data]\nseed = 3\n")
    assert (config.seed, config.data.seed, config.train.seed) == (7, 3, 7)


def test_an_engine_has_options_and_paths_of_its_own(tmp_path):
    text = SOURCE + (
        '[run]\nengine = "guard-hf"\n[engine]\nmodel = "./guard"\nrefuse = ["harmful"]\nname = '
        '"a/b"\n'
    )
    config = load(tmp_path, text, overrides=["engine.batch=4"])
    assert config.engine == "guard-hf"
    assert config.options == {
        "model": str(tmp_path / "guard"),
        "refuse": ["harmful"],
        "name": "a/b",
        "batch": 4,
    }
    assert (
        config_from(config.resolved(), "config.json", base=tmp_path / "elsewhere").options
        == config.options
    )
    assert "engine" not in load(tmp_path, SOURCE).resolved()


def test_overrides_speak_toml_and_bare_words(tmp_path):
    overrides = [
        "run.seed=5",
        "train.base = some/model",
        "train.learning_rate=1e-4",
        "data.limits.benign=9",
    ]
    config = load(tmp_path, SOURCE, overrides=overrides)
    assert config.seed == 5
    assert config.train == TrainSettings(base="some/model", learning_rate=1e-4, seed=5)
    assert config.data.limits == {"benign": 9}


@pytest.mark.parametrize("text", ["train.epochs", "epochs=2", "=2", "run.seed.more=1"])
def test_an_override_that_is_none_is_an_error(tmp_path, text):
    with pytest.raises(ConfigError):
        load(tmp_path, SOURCE + "[run]\nseed = 1\n", overrides=[text])


@pytest.mark.parametrize(
    ("text", "place", "hint"),
    [
        ("[run]\nsede = 1\n", "run.sede: unknown key", "'seed'"),
        ("[train]\nlearning_rat = 1\n", "train.learning_rat: unknown key", "'learning_rate'"),
        ("[trian]\n", "trian: unknown key", "'train'"),
        ("[data]\ncontrast_ration = 1\n", "data.contrast_ration: unknown key", "'contrast_ratio'"),
        ("[taxonomy]\npresett = 'single'\n", "taxonomy.presett: unknown key", "'preset'"),
        ("[run]\nthreads = 0\n", "run.threads", ""),
        ("[train]\nepochs = 'many'\n", "train.epochs", ""),
        ("[train]\nepochs = 0\n", "[train]: train.epochs", ""),
        ("[data]\ntest_share = 2.0\n", "[data]: calibrate_share", ""),
        ("[data]\non_leak = 'warn'\n", "data.on_leak", ""),
        ("[taxonomy]\npreset = 'coco'\n", "unknown taxonomy 'coco'", "coconot"),
        ("[taxonomy]\nname = 'x'\n", "taxonomy: respond_token", ""),
        ("[taxonomy]\npreset = 'single'\nname = 'x'\n", "stands beside name", "one of"),
        ("[taxonomy]\nfile = 'a.toml'\npreset = 'single'\n", "stands beside file", "one of"),
        ("[taxonomy]\nfile = 'none.toml'\n", "none.toml does not exist", ""),
        ("[taxonomy]" + OWN.replace("[legal]", "[ok]"), "control token '[ok]' occurs 2 times", ""),
        (
            "[[data.sources]]\nkind = 'jsonl'\nfiles = ['a.jsonl']\n",
            "data.sources[1]: a files source needs",
            "--data",
        ),
        ("[[data.sources]]\nkinds = 'jsonl'\n", "data.sources.1.kind", ""),
    ],
)
def test_bad_settings_name_file_key_and_remedy(tmp_path, text, place, hint):
    with pytest.raises(ConfigError) as e:
        load(tmp_path, SOURCE + text)
    assert "run.toml" in e.value.message or "none.toml" in e.value.message
    assert place in e.value.message
    assert hint in e.value.hint
    assert e.value.hint


def test_a_config_without_sources_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="data"):
        load(tmp_path, "[run]\nseed = 1\n")
    with pytest.raises(ConfigError, match=r"data\.sources"):
        load(tmp_path, "[data]\nsources = []\n")


def test_a_file_that_is_missing_or_not_toml_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.toml does not exist"):
        load_config(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match=r"run\.toml is not TOML"):
        load(tmp_path, "[run\n")


def test_a_taxonomy_is_a_preset_a_table_or_a_file(tmp_path):
    assert load(tmp_path, SOURCE + "[taxonomy]\npreset = 'single'\n").taxonomy == single()
    inline = load(tmp_path, SOURCE + "[taxonomy]" + OWN).taxonomy
    assert inline.tokens == ("[ok]", "[legal]")
    (tmp_path / "own.toml").write_text(OWN)
    assert load(tmp_path, SOURCE + "[taxonomy]\nfile = 'own.toml'\n").taxonomy == inline


def test_a_fault_in_a_taxonomy_file_names_that_file(tmp_path):
    (tmp_path / "own.toml").write_text(OWN + "extra = 1\n")
    with pytest.raises(ConfigError, match=r"own\.toml: taxonomy: extra: unknown key"):
        load(tmp_path, SOURCE + "[taxonomy]\nfile = 'own.toml'\n")


JSONL = '[[data.sources]]\nkind = "jsonl"\nfiles = ["a.jsonl"]\n'


def test_folders_are_relative_to_the_file_and_the_caller_may_replace_them(tmp_path):
    inside = load(tmp_path, JSONL + 'folder = "rows"\n')
    assert build_sources(inside, find) == {
        "jsonl": FileSource(folder=tmp_path / "rows", files=("a.jsonl",))
    }
    outside = load(tmp_path, JSONL, data_folder=tmp_path / "other")
    assert build_sources(outside, find)["jsonl"].folder == tmp_path / "other"


def test_a_data_folder_that_nothing_would_read_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="no files source"):
        load(tmp_path, SOURCE, data_folder=tmp_path)


def test_sources_of_one_kind_get_names_of_their_own(tmp_path):
    config = load(tmp_path, SOURCE + JSONL + 'folder = "a"\n' + JSONL + 'folder = "b"\n')
    assert list(config.sources) == ["builtin", "jsonl", "jsonl-2"]


@pytest.mark.parametrize(
    ("text", "says", "hint"),
    [
        (
            JSONL + 'folder = "a"\nexclude_source = ["x"]\n',
            "exclude_source: unknown key",
            "'exclude_sources'",
        ),
        (JSONL + 'folder = "a"\nkinds = ["refusals"]\n', "kinds.0", "correct"),
        ('[[data.sources]]\nkind = "hubb"\n', "unknown source 'hubb'", "'hub'"),
        ('[[data.sources]]\nkind = "nowhere.rows:Rows"\n', "no module 'nowhere'", "spelling"),
        ('[[data.sources]]\nkind = "pathlib:Path"\n', "not a dataclass", "fields"),
    ],
)
def test_options_of_a_source_are_the_fields_of_its_class(tmp_path, text, says, hint):
    config = load(tmp_path, text)
    with pytest.raises(ConfigError) as e:
        build_sources(config, find)
    assert says in e.value.message
    assert hint in e.value.hint


@dataclass(frozen=True, kw_only=True, slots=True)
class Numbers:
    count: int
    ratio: float = 0.5
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.count > 9:
            raise ConfigError(f"count {self.count} is above 9", "lower it")


def test_a_record_is_built_from_what_a_user_wrote():
    assert build(Numbers, {"count": 3, "names": ["a"]}, "here") == Numbers(count=3, names=("a",))
    with pytest.raises(ConfigError, match="here: count: Field required"):
        build(Numbers, {}, "here")
    with pytest.raises(ConfigError, match="here: count 10 is above 9"):
        build(Numbers, {"count": 10}, "here")


@pytest.mark.parametrize("name", ["demo", "own", "real", "hub_llama8b", "anywhere"])
def test_every_example_loads_and_its_resolved_form_reads_back(tmp_path, name):
    folder = tmp_path if name == "real" else None
    config = load_config(EXAMPLES / f"{name}.toml", data_folder=folder)
    assert config.name in name
    plain = json.loads(json.dumps(config.resolved(), allow_nan=False))
    again = config_from(plain, "run.json", base=tmp_path)
    assert again.resolved() == plain
    assert replace(again, sources={}) == replace(config, sources={})
    assert build_sources(again, find) == build_sources(config, find)


def test_infinity_survives_the_resolved_form(tmp_path):
    config = load(tmp_path, SOURCE + "[calibrate.limits]\nsafety = [0.5, inf]\n")
    plain = json.loads(json.dumps(config.resolved(), allow_nan=False))
    assert config_from(plain, "run.json", base=tmp_path).calibrate == config.calibrate
    assert config.calibrate.limits == {"safety": (0.5, float("inf"))}


def test_the_example_for_real_rows_asks_for_the_folder():
    with pytest.raises(ConfigError, match="needs its folder") as e:
        load_config(EXAMPLES / "real.toml")
    assert "--data" in e.value.hint
