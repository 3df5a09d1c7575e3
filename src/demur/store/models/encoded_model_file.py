"""A classifier over an encoder's vectors in one .npz file: the linear layer and the encoder's name.
The encoder itself stays where its checkpoint is.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np

from demur.base.boundary import Strict, validated
from demur.base.errors import ArtifactError
from demur.base.files import digest_file, write_bytes
from demur.core.classifiers.encoded import EncodedClassifier, Encoder

FORMAT = "demur.encoded-classifier/1"


class _Head(Strict):
    """The part of the file that is JSON."""

    format: Literal["demur.encoded-classifier/1"]
    model: str  # folder or name of the encoder's checkpoint
    encoder: str  # its name with the digest of its weights
    intercept: float
    fewest_words: int
    most_words: int


def write_encoded(path: Path, classifier: EncodedClassifier, model: str) -> str:
    """Write the linear layer atomically; returns the file's digest. model: where the encoder is
    loaded from.
    """
    head = _Head(
        format="demur.encoded-classifier/1",
        model=model,
        encoder=classifier.encoder.name,
        intercept=classifier.intercept,
        fewest_words=classifier.fewest_words,
        most_words=classifier.most_words,
    )
    buffer = io.BytesIO()
    text = np.frombuffer(head.model_dump_json().encode(), dtype=np.uint8)
    np.savez_compressed(buffer, head=text, weight=classifier.weight_D)
    write_bytes(path, buffer.getvalue())
    return digest_file(path)


def is_encoded(path: Path) -> bool:
    """Whether a file holds such a classifier, rather than one over n-grams."""
    # Both are .npz with a head; only the format within the head tells them apart.
    try:
        return FORMAT.encode() in _arrays(path)[0]
    except ArtifactError:
        return False


def read_encoded(path: Path, load: Callable[[str], Encoder]) -> tuple[EncodedClassifier, str]:
    """Read a classifier and its file's digest. load: makes the encoder of a folder or name.

    Raises ArtifactError if the file cannot be read, or if the encoder is not the one that it was
    fitted on.
    """
    raw, weight_D = _arrays(path)
    head = validated(_Head, json.loads(raw), str(path))
    encoder = load(head.model)
    # The name holds the digest of the encoder's weights: on others the linear layer means nothing.
    if encoder.name != head.encoder:
        raise ArtifactError(
            f"{path} was fitted on encoder {head.encoder!r}, and {head.model} is {encoder.name!r} "
            "now",
            "restore that checkpoint, or train again: demur judge train --recipe encoder",
        )
    classifier = EncodedClassifier(
        encoder=encoder,
        weight_D=weight_D,
        intercept=head.intercept,
        fewest_words=head.fewest_words,
        most_words=head.most_words,
    )
    return classifier, digest_file(path).removeprefix("sha256:")


def _arrays(path: Path) -> tuple[bytes, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    """Read the head's bytes and the weights (D,). Raises ArtifactError."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return arrays["head"].tobytes(), arrays["weight"] if "weight" in arrays else np.zeros(
                0, dtype=np.float32
            )
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as e:
        raise ArtifactError(
            f"{path} is no classifier: {e}", "train one: demur judge train"
        ) from None
