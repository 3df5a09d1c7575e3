"""A text classifier in one .npz file: numbers and n-grams. Reading it runs no code (no pickle)."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from demur.base.boundary import Strict, every_key, validated
from demur.base.errors import ArtifactError
from demur.base.files import digest_file, write_bytes
from demur.core.classifiers.text import FittedView, NgramView, TextClassifier

PREDICTOR = "predictor.npz"  # in a run's train/model: what predicts a black-box model's refusals


class HeadRow(Strict):
    """The part of the file that is JSON."""

    format: Literal["demur.text-classifier/1"]
    views: tuple[Annotated[NgramView, every_key(NgramView)], ...]
    intercept: float
    fewest_words: int
    most_words: int
    least_known: float


def write_text_classifier(path: Path, classifier: TextClassifier) -> str:
    """Write a classifier atomically; returns the file's digest."""
    head = HeadRow(
        format="demur.text-classifier/1",
        views=tuple(v.view for v in classifier.views),
        intercept=classifier.intercept,
        fewest_words=classifier.fewest_words,
        most_words=classifier.most_words,
        least_known=classifier.least_known,
    )
    arrays: dict[str, Any] = {
        "head": _lines([head.model_dump_json()]),
        "words": _lines(sorted(classifier.words)),
    }
    # .npz has no nesting: the arrays of view n carry its number in their names
    for n, view in enumerate(classifier.views):
        arrays |= {
            f"terms{n}": _lines(list(view.place)),
            f"idf{n}": view.idf_V,
            f"weight{n}": view.weight_V,
        }
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_bytes(path, buffer.getvalue())
    return digest_file(path)


def read_text_classifier(path: Path) -> tuple[TextClassifier, str]:
    """Read a classifier and its file's digest. Raises ArtifactError if the file is missing, damaged
    or of another format.
    """
    digest = digest_file(path)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            raw = _texts(arrays["head"])[0]
            head = validated(HeadRow, json.loads(raw), str(path))
            views = tuple(_view(view, n, arrays) for n, view in enumerate(head.views))
            words = frozenset(_texts(arrays["words"]))
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as e:
        raise ArtifactError(
            f"{path} is no text classifier: {e}", "train one: demur judge train"
        ) from None
    return (
        TextClassifier(
            views=views,
            intercept=head.intercept,
            fewest_words=head.fewest_words,
            most_words=head.most_words,
            least_known=head.least_known,
            words=words,
        ),
        digest.removeprefix("sha256:"),
    )


def _view(view: NgramView, n: int, arrays: Any) -> FittedView:
    """Fit a view together from its arrays. Raises ValueError if they differ in length."""
    terms = _texts(arrays[f"terms{n}"])
    idf_V, weight_V = arrays[f"idf{n}"], arrays[f"weight{n}"]
    if not len(terms) == len(idf_V) == len(weight_V):
        raise ValueError(
            f"{len(terms)} n-grams, {len(idf_V)} frequencies, {len(weight_V)} coefficients"
        )
    return FittedView(
        view=view, place={term: at for at, term in enumerate(terms)}, idf_V=idf_V, weight_V=weight_V
    )


def _lines(texts: list[str]) -> Any:
    """Pack texts without line breaks into one array of bytes."""
    # An array of texts would pad each to the longest, or need pickle.
    return np.frombuffer("\n".join(texts).encode("utf-8"), dtype=np.uint8)


def _texts(array: Any) -> list[str]:
    text = array.tobytes().decode("utf-8")
    return text.split("\n") if text else []
