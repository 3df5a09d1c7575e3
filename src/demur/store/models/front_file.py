"""distil/front.npz: a cascade's front model, as numbers and digests. Reading it runs no code (no
pickle).

It holds no text of the traffic: n-grams, words and system messages are digests. A known text can
still be looked up in it.
"""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import ConfigDict

from demur.base.boundary import Strict, read_json, validated
from demur.base.errors import ArtifactError, DemurError
from demur.base.files import digest_file, write_bytes
from demur.core.cascade.front import Front, FrontEdges, Linear, TrafficRange
from demur.core.fingerprint import Fingerprint
from demur.core.rates import Rate
from demur.store.fingerprint_json import StoredFingerprint
from demur.store.run import RunFolder

FRONT = "front.npz"
METRICS = "metrics.json"
HELD_SHARE = 0.3  # of the traffic: chooses range and edges, and is not fitted on
_REMEDY = "make it again: demur distil RUN --traffic FILE"


class FrontMetrics(Strict):
    """distil/metrics.json: how a front was made, and what it did on the rows held out from its
    fit.
    """

    format: Literal["demur.front-metrics/1"] = "demur.front-metrics/1"
    bound: float  # on disagreement, that the edges were chosen for
    policy: str  # whose decisions front and model were to agree on
    strength: float  # inverse of the L2 penalty
    left_out: dict[str, int]  # reason -> rows of traffic
    fitted: int  # rows
    held: int  # rows that chose range and edges
    inside: int  # of them within the range
    decided: int  # of them decided by the front
    answered: Rate  # of them answered by the front: decided otherwise by the model
    refused: Rate  # refused by the front: decided otherwise by the model
    front_ms: float  # CPU milliseconds of the front for one prompt
    # of the model, in the batches that it scored the traffic in; None: not measured
    model_ms: float | None

    @property
    def share(self) -> float:
        """Share of held-out traffic that the front decides."""
        return self.decided / self.held

    @property
    def cascade_ms(self) -> float | None:
        """CPU milliseconds for one decision of the cascade: the front always, the model for the
        rest.
        """
        return None if self.model_ms is None else self.front_ms + (1.0 - self.share) * self.model_ms

    @property
    def cost(self) -> str:
        """The cost of a decision, as a sentence."""
        if self.model_ms is None or self.cascade_ms is None:
            return f"front {self.front_ms:.2f} ms; the model's was not measured"
        saved = 1.0 - self.cascade_ms / self.model_ms
        return (
            f"model alone {self.model_ms:.2f} ms, front {self.front_ms:.2f} ms, cascade "
            f"{self.cascade_ms:.2f} ms ({saved:.0%} saved)"
        )


class HeadRow(Strict):
    """The part of front.npz that is JSON. Its numbers are finite."""

    model_config = ConfigDict(allow_inf_nan=False)

    format: Literal["demur.front/1"] = "demur.front/1"
    taught_by: StoredFingerprint
    edges: FrontEdges
    letters: str
    systems: tuple[str, ...]
    most_letters: int
    most_words: int
    most_unknown: int
    least_known: float


def front_file(folder: RunFolder) -> Path:
    """distil/front.npz"""
    return folder.stage("distil") / FRONT


def metrics_file(folder: RunFolder) -> Path:
    """distil/metrics.json: what was measured of the front, and what decisions cost"""
    return folder.stage("distil") / METRICS


def write_front(path: Path, front: Front) -> str:
    """Write a front atomically; returns the file's digest. The same front gives the same bytes."""
    own = front.range
    head = HeadRow(
        taught_by=front.taught_by,
        edges=front.edges,
        letters="".join(sorted(own.letters)),
        systems=tuple(sorted(own.systems)),
        most_letters=own.most_letters,
        most_words=own.most_words,
        most_unknown=own.most_unknown,
        least_known=own.least_known,
    )
    arrays: dict[str, Any] = {
        "head": np.frombuffer(head.model_dump_json().encode(), dtype=np.uint8),
        "grams": np.array(list(front.linear.place), dtype=np.uint32),
        "idf": front.linear.idf_F,
        "weight": front.linear.weight_FC,
        "intercept": front.linear.intercept_C,
        "words": np.array(sorted(own.words), dtype=np.uint32),
    }
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_bytes(path, buffer.getvalue())
    return digest_file(path)


def read_front(path: Path) -> Front:
    """Read a front. Raises ArtifactError if the file is missing, damaged or of another format."""
    # Whatever a damaged file makes numpy, zipfile or the checks raise ends in one error.
    try:
        with np.load(path, allow_pickle=False) as arrays:
            head = validated(HeadRow, json.loads(arrays["head"].tobytes()), str(path))
            linear = _linear(arrays, len(head.taught_by.tokens))
            words = frozenset(arrays["words"].tolist())
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as e:
        raise ArtifactError(f"{path} is no front model: {e}", _REMEDY) from None
    except DemurError as e:
        raise ArtifactError(e.message, _REMEDY) from None
    own = TrafficRange(
        letters=frozenset(head.letters),
        words=words,
        systems=frozenset(head.systems),
        most_letters=head.most_letters,
        most_words=head.most_words,
        most_unknown=head.most_unknown,
        least_known=head.least_known,
    )
    return Front(taught_by=head.taught_by, linear=linear, range=own, edges=head.edges)


def front_of(folder: RunFolder, model: Fingerprint, digest: str | None = None) -> tuple[Front, str]:
    """Read the front of a run, and its digest. model: it must be this model's. digest: of the front
    that a policy was calibrated with.

    Raises ArtifactError if there is none, if it changed since it was made, or if it is another one
    or another model's: a promise about a cascade holds neither for the model alone nor for another
    front.
    """
    path = front_file(folder)
    folder.require("distil")
    found = digest_file(path)
    if digest is not None and found != digest:
        raise ArtifactError(
            f"{path} is front {found[:19]}, and the policy was calibrated with front {digest[:19]}",
            "put that front back, or calibrate again: demur calibrate RUN --set cascade=true",
        )
    front = read_front(path)
    if differing := front.taught_by.differences(model):
        raise ArtifactError(
            f"{path} was taught by another model: {', '.join(differing)} differ", _REMEDY
        )
    return front, found


def read_front_metrics(folder: RunFolder) -> FrontMetrics:
    """Read the measurements of a run's front. Raises ArtifactError if missing or damaged."""
    return validated(FrontMetrics, read_json(metrics_file(folder)), str(metrics_file(folder)))


def _linear(arrays: Any, tokens: int) -> Linear:
    """The linear model. Raises ValueError if its arrays do not fit together or are not finite."""
    # F n-grams, and a row of weights each; columns: the control tokens, then the leftover mass
    grams = arrays["grams"].tolist()
    idf_F, weight_FC, intercept_C = arrays["idf"], arrays["weight"], arrays["intercept"]
    shapes = idf_F.shape, weight_FC.shape, intercept_C.shape
    if shapes != ((len(grams),), (len(grams), tokens + 1), (tokens + 1,)):
        raise ValueError(f"{len(grams)} n-grams and {tokens} control tokens beside arrays {shapes}")
    if not all(np.isfinite(a).all() for a in (idf_F, weight_FC, intercept_C)):
        raise ValueError("numbers that are not finite")
    # the row of each n-gram, by its digest
    place = {key: at for at, key in enumerate(grams)}
    return Linear(place=place, idf_F=idf_F, weight_FC=weight_FC, intercept_C=intercept_C)
