"""One run, from one TOML file: [run], [taxonomy], [[data.sources]], and a section per stage.

    [run]                         # name, seed, threads, engine
    seed = 1
    [taxonomy]                    # preset, file, or name, respond_token and categories
    preset = "single"
    [[data.sources]]              # kind: a name of wiring.SOURCES or "package.module:Class"
    kind = "files"                # the other keys are the fields of that class
    folder = "rows"
    files = ["a.jsonl"]
    [engine]                      # of a guard model: the fields of its class, see wiring.ENGINES
    model = "./guard"
    [train]                       # [data], [score], ...: the fields of the stage's frozen Config
    base = "tiny"

1. The file is parsed, and overrides "section.key=value" are put into it.
2. One pydantic model of the whole file, made from the stages' dataclasses, checks names and types.
3. Each stage's dataclass is made from the keys that were given, keeping its own defaults, and
   checks their values.
4. Relative paths start at the file; in [engine], where a value may be a name, only those that begin
   with "./" or "../" are paths.

A stage's section holds the fields of that stage's dataclass and nothing else: a setting has one
home.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, create_model
from pydantic_core import to_jsonable_python

from demur.base.boundary import Strict, read_toml, validated
from demur.base.errors import ConfigError, DemurError
from demur.core.ports import Source
from demur.core.settings import (
    CalibrateSettings,
    DataSettings,
    EvaluateSettings,
    ReportSettings,
    ScoreSettings,
)
from demur.core.taxonomy import Category, Taxonomy, preset
from demur.core.training.settings import TrainSettings, defaults

T = TypeVar("T")

# Section -> the record its keys are the fields of. A section that is not here is not a key of the
# file.
STAGE_CONFIGS: Mapping[str, type] = {
    "data": DataSettings,
    "train": TrainSettings,
    "score": ScoreSettings,
    "calibrate": CalibrateSettings,
    "evaluate": EvaluateSettings,
    "report": ReportSettings,
}
DEFAULT_TAXONOMY = "coconot"
# sources whose `folder` the caller may give on the command line
FOLDER_SOURCES = ("files", "jsonl")


class _Run(Strict):
    name: str | None = None
    seed: int = 0
    threads: int | None = Field(default=None, ge=1)
    engine: str = "hf"


class _Taxonomy(Strict):
    preset: str | None = None
    file: Path | None = None
    name: str | None = None
    respond_token: str | None = None
    categories: tuple[Category, ...] | None = None


class _Source(BaseModel):
    # its other keys are the fields of the source's class
    model_config = ConfigDict(extra="allow", frozen=True)

    kind: str


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceSpec:
    """One [[data.sources]] table."""

    kind: str  # a name of demur.assembly.wiring.SOURCES, or "package.module:Class"
    options: Mapping[str, Any]
    where: str  # file and table, for errors


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """The resolved config of a run: every setting, with defaults filled in."""

    name: str
    seed: int  # also of every stage that has a seed and is not given one
    threads: int | None  # CPU threads; None: as many as the libraries choose
    # what scores and writes: a name of demur.assembly.wiring.ENGINES or "package.module:Class"
    engine: str
    options: Mapping[str, Any]  # [engine]: fields of that class, for guard models; empty otherwise
    taxonomy: Taxonomy
    sources: Mapping[str, SourceSpec]  # by a name that is unique in the run
    data: DataSettings
    train: TrainSettings
    score: ScoreSettings
    calibrate: CalibrateSettings
    evaluate: EvaluateSettings
    report: ReportSettings

    def resolved(self) -> dict[str, Any]:
        """Return the config as plain JSON or TOML values, all settings spelt out.

        config_from reads them back.
        """
        run = {"name": self.name, "seed": self.seed, "threads": self.threads, "engine": self.engine}
        engine = {"engine": dict(self.options)} if self.options else {}
        stages = {name: asdict(getattr(self, name)) for name in STAGE_CONFIGS}
        # sources stand in [data] in the file, and beside it in the record
        stages["data"]["sources"] = [{"kind": s.kind, **s.options} for s in self.sources.values()]
        table = {
            "run": run,
            **engine,
            "taxonomy": asdict(self.taxonomy),
            **stages,
        }
        return {name: _plain(to_jsonable_python(section)) for name, section in table.items()}


def load_config(
    path: Path, *, data_folder: Path | None = None, overrides: Sequence[str] = ()
) -> RunConfig:
    """Read the config of a run from a TOML file.

    data_folder takes the place of `folder` in every source of files. overrides:
    "section.key=value", value as in TOML, a bare word being a text. Raises ConfigError naming file
    and key, and ArtifactError or TaxonomyError likewise.
    """
    table = read_toml(path)
    for text in overrides:
        override(table, text)
    return config_from(table, str(path), base=path.parent, data_folder=data_folder)


def config_from(
    table: Mapping[str, Any], where: str, *, base: Path, data_folder: Path | None = None
) -> RunConfig:
    """Read the config of a run from a table, as load_config and RunConfig.resolved make it.

    where: names the table in errors; its stem is the run's name if the table has none. base: folder
    that relative paths start from. Raises ConfigError naming the key.
    """
    # a copy: pydantic may hand out parts of its input, and the caller keeps the table
    file: Any = validated(_file_model(), deepcopy(dict(table)), where, ConfigError)
    stages = {
        name: _stage(name, getattr(file, name), file.run.seed, where) for name in STAGE_CONFIGS
    }
    return RunConfig(
        name=file.run.name or Path(where).stem,
        seed=file.run.seed,
        threads=file.run.threads,
        engine=file.run.engine,
        options=_options(file.engine, base),
        taxonomy=_taxonomy(file.taxonomy, where, base),
        sources=_sources(file.data.sources, where, base, data_folder),
        **{name: _anchored(stage, base) for name, stage in stages.items()},
    )


def with_overrides(stage: T, overrides: Sequence[str], where: str) -> T:
    """Return a stage's settings with "key=value" overrides, values as in TOML.

    where: the stage's section. Paths are relative to the working directory. Raises ConfigError
    naming the key.
    """
    # Only the overridden keys are validated and replaced: the stage's settings have been checked,
    # and its other paths are absolute already.
    table: dict[str, Any] = {}
    for text in overrides:
        override(table, f"{where}.{text}")
    section = validated(_model_of(type(stage)), table.get(where, {}), where, ConfigError)
    made: T = replace(stage, **_given(section))  # type: ignore[type-var]
    anchored: T = _anchored(made, Path())
    return anchored


def build_sources(config: RunConfig, find: Callable[[str], type]) -> dict[str, Source]:
    """Make the sources of a run. find: imports the class of a kind.

    Raises ConfigError naming the option.
    """
    return {
        name: build(find(spec.kind), spec.options, spec.where)
        for name, spec in config.sources.items()
    }


def build(kind: type[T], options: Mapping[str, Any], where: str) -> T:
    """Make a dataclass, such as a source, from options that a user wrote.

    where: names the options in errors. Raises ConfigError on unknown keys and wrong values.
    """
    # a class of the user's own, named by "package.module:Class", may be anything
    if not is_dataclass(kind):
        raise ConfigError(
            f"{where}: {kind.__name__} is not a dataclass", "its fields are the options it takes"
        )
    section = validated(_model_of(kind), dict(options), where, ConfigError)
    try:
        return kind(**_given(section))
    except DemurError as e:
        raise ConfigError(f"{where}: {e.message}", e.hint) from None


def _file_model() -> type[Strict]:
    """Make the pydantic model of the whole file.

    With one model an error names its section and key, as in "train.epochs".
    """
    sections: dict[str, Any] = {}
    for name, kind in STAGE_CONFIGS.items():
        extra: dict[str, Any] = (
            {"sources": (tuple[_Source, ...], Field(min_length=1))} if name == "data" else {}
        )
        model = _model_of(kind, **extra)
        # [data] is required, for its sources; any other section may be left out
        sections[name] = (model, ...) if name == "data" else (model, model())
    sections |= {
        "run": (_Run, _Run()),
        "taxonomy": (_Taxonomy, _Taxonomy()),
        "engine": (dict[str, Any], {}),
    }
    return create_model("RunFile", __base__=Strict, **sections)


def _model_of(kind: type, **extra: Any) -> type[Strict]:
    """Make a pydantic model with the fields, types and defaults of a dataclass."""
    hints = get_type_hints(kind)
    known: dict[str, Any] = {}
    for f in fields(kind):
        # a field is required where the dataclass has neither default nor factory
        if f.default_factory is not MISSING:
            known[f.name] = (hints[f.name], Field(default_factory=f.default_factory))
        else:
            known[f.name] = (hints[f.name], ... if f.default is MISSING else f.default)
    return create_model(kind.__name__, __base__=Strict, **known, **extra)


def _given(section: BaseModel) -> dict[str, Any]:
    """Return the values that the user wrote, without defaults."""
    return {name: getattr(section, name) for name in section.model_fields_set}


def _stage(name: str, section: BaseModel, seed: int, where: str) -> Any:
    """Make a stage's settings; keys that the file leaves out keep the dataclass's defaults."""
    kind = STAGE_CONFIGS[name]
    given = {key: value for key, value in _given(section).items() if key != "sources"}
    # the run's seed is that of every stage which has one and is not given its own
    if "seed" in {f.name for f in fields(kind)}:
        given.setdefault("seed", seed)
    try:
        # training's defaults depend on the base model, and on a named recipe
        if kind is TrainSettings:
            return replace(defaults(given.get("base"), given.get("recipe")), **given)
        return kind(**given)
    except DemurError as e:
        raise ConfigError(f"{where}: [{name}]: {e.message}", e.hint) from None


def _anchored(stage: Any, base: Path) -> Any:
    """Return settings with relative paths, single, in tuples or in a record, made absolute."""
    # (base / path) is path itself where that is absolute
    values = {f.name: getattr(stage, f.name) for f in fields(stage)}
    records = {name: _anchored(one, base) for name, one in values.items() if is_dataclass(one)}
    paths = {
        name: (base / path).resolve() for name, path in values.items() if isinstance(path, Path)
    }
    lists = {
        name: tuple((base / path).resolve() for path in some)
        for name, some in values.items()
        if isinstance(some, tuple) and some and all(isinstance(path, Path) for path in some)
    }
    return replace(stage, **paths, **lists, **records)


def _options(section: Mapping[str, Any], base: Path) -> dict[str, Any]:
    """Return [engine] with relative paths made absolute; the engine's class checks the rest."""
    options = dict(section)
    for name, value in section.items():
        if isinstance(value, str) and value.startswith(("./", "../")):
            options[name] = str((base / value).resolve())
    return options


def _taxonomy(section: _Taxonomy, where: str, base: Path) -> Taxonomy:
    """Read the taxonomy in one of its forms: a preset, a file, or categories in place.

    Raises ConfigError if forms are mixed.
    """
    # forms: keys beside the one form that was chosen; any is an error
    given = set(_given(section))
    if "preset" in given or not given:
        forms, row = given - {"preset"}, None
    elif "file" in given:
        path = base / str(section.file)
        forms, row, where = given - {"file"}, read_toml(path), str(path)
    else:
        forms = set()
        row = {k: v for k, v in section.model_dump().items() if v is not None}
    if forms:
        raise ConfigError(
            f"{where}: taxonomy: preset or file stands beside {', '.join(sorted(forms))}",
            "give one of: preset, file, or name, respond_token and categories",
        )
    # errors of the taxonomy itself, such as a token used twice, get the file's name before them
    try:
        if row is None:
            return preset(section.preset or DEFAULT_TAXONOMY)
        return validated(Taxonomy, row, f"{where}: taxonomy", ConfigError)
    except ConfigError:
        raise
    except DemurError as e:
        raise ConfigError(f"{where}: taxonomy: {e.message}", e.hint) from None


def _sources(
    rows: Sequence[_Source], where: str, base: Path, data_folder: Path | None
) -> dict[str, SourceSpec]:
    """Read [[data.sources]], by name: the kind, numbered from the second of a kind on."""
    if data_folder is not None and all(row.kind not in FOLDER_SOURCES for row in rows):
        raise ConfigError(
            f"{where} has no {FOLDER_SOURCES[0]} source that could read {data_folder}",
            "drop --data, or add one",
        )
    specs: dict[str, SourceSpec] = {}
    for n, row in enumerate(rows):
        at = f"{where}: data.sources[{n}]"
        options = dict(row.model_extra or {})
        if row.kind in FOLDER_SOURCES:
            folder = data_folder.resolve() if data_folder else _folder(options, base, at)
            options["folder"] = str(folder)
        # "files", "files-2", "files-3", in the file's order
        twins = sum(other.kind == row.kind for other in rows[:n])
        specs[row.kind if not twins else f"{row.kind}-{twins + 1}"] = SourceSpec(
            kind=row.kind, options=options, where=at
        )
    return specs


def _folder(options: Mapping[str, Any], base: Path, at: str) -> Path:
    folder = options.get("folder")
    if not isinstance(folder, str):
        raise ConfigError(
            f"{at}: a {FOLDER_SOURCES[0]} source needs its folder",
            'pass --data DIR, or set folder = "..."',
        )
    return (base / folder).resolve()


def override(table: dict[str, Any], text: str) -> None:
    """Put one "section.key=value" into a table. Raises ConfigError if it cannot be read."""
    key, equals, value = text.partition("=")
    *sections, name = key.strip().split(".")
    if not equals or not sections:
        raise ConfigError(
            f"cannot read the override {text!r}", "write section.key=value, e.g. train.epochs=2"
        )
    # walk down to the table that holds the key, making the sections that are missing
    for section in sections:
        table = table.setdefault(section, {})
        if not isinstance(table, dict):
            raise ConfigError(
                f"override {text!r}: {section!r} is not a section", "write section.key=value"
            )
    # what is no TOML value is a text: quotes inside a shell's quotes are a nuisance
    try:
        table[name] = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        table[name] = value.strip()


def _plain(value: Any) -> Any:
    """Remove what TOML or JSON lacks from a value.

    None is left out, and reads back as the default; infinity becomes a word.
    """
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items() if v is not None}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return str(value) if isinstance(value, float) and math.isinf(value) else value
