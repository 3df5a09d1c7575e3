"""The run folder: where each stage keeps its artifact, and what it was made from.

1. A stage writes its files, then its receipt `made.json`: the digests of its inputs and of its
   files. A stage without a receipt is not finished.
2. `is_current` compares a receipt with settings, inputs and files: a finished stage is not done
   again.
3. `require` is how a stage reads another: it names a file that changed, and an input that is
   another by now.
4. Calibrate, evaluate and report exist once per policy. The run's own lies in the stage's folder,
   others in a folder of their name below it; `named` gives a RunFolder that sees one of these.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from demur.base.boundary import Strict, read_json, validated
from demur.base.errors import ArtifactError, ConfigError
from demur.base.files import digest_file, digest_json, write_json
from demur.core.example import Split

Stage = Literal["data", "train", "score", "calibrate", "evaluate", "report"]
# Stages that a run may have beside them: none of them needs "distil", unless asked to use it;
# "blackbox" makes the rows of a run, and counts what they leave out.
Beside = Literal["distil", "blackbox"]
STAGES: tuple[Stage, ...] = ("data", "train", "score", "calibrate", "evaluate", "report")

_OF_A_POLICY = ("calibrate", "evaluate", "report")  # stages of which each policy has one of its own
_POLICY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_TAKEN = ("policies", "parts", "policy", "natural", "calibrated")


class Receipt(Strict):
    """<stage>/made.json: written last, so a stage without it is not finished."""

    format: Literal["demur.receipt/1"] = "demur.receipt/1"
    stage: Stage | Beside
    settings: dict[str, object]  # the stage's resolved config
    made_from: dict[str, str]  # name of an input -> digest
    made: dict[str, str]  # file, relative to the run folder -> digest


@dataclass(frozen=True, slots=True)
class RunFolder:
    """A run on disk. Paths only; reading and writing is in the other modules of demur.store."""

    root: Path
    # one of several policies of the run; None: its own, as the config has it
    policy_name: str | None = None

    def named(self, name: str) -> RunFolder:
        """The same run with the paths of another of its policies: calibrate/NAME, evaluate/NAME,
        report/NAME.

        Raises ConfigError on a name that is not a plain word or is taken.
        """
        # some file systems know no capitals
        if not _POLICY_NAME.fullmatch(name) or name.lower() in _TAKEN:
            raise ConfigError(
                f"a policy of a run cannot be called {name!r}",
                f"letters, digits, '_' and '-'; not {', '.join(_TAKEN)}",
            )
        return replace(self, policy_name=name)

    @property
    def policy_names(self) -> tuple[str, ...]:
        """Names of the policies that the run keeps beside its own."""
        return tuple(
            sorted(path.parent.name for path in (self.root / "calibrate").glob("*/policy.json"))
        )

    def stage(self, stage: Stage | Beside) -> Path:
        """The folder of one stage, for this policy where the stage has one for each."""
        own = self.policy_name if stage in _OF_A_POLICY else None
        return self.root / stage / own if own else self.root / stage

    def split(self, split: Split) -> Path:
        """data/<split>.jsonl"""
        return self.root / "data" / f"{split}.jsonl"

    def scores(self, split: Split) -> Path:
        """score/<split>.parquet"""
        return self.root / "score" / f"{split}.parquet"

    @property
    def ledger(self) -> Path:
        """data/ledger.jsonl: attempts at certifying promises, of all policies of the run. Where the
        run shares another one's, the file that it links to.
        """
        return (self.root / "data" / "ledger.jsonl").resolve()

    @property
    def model(self) -> Path:
        """train/model: a plain Hugging Face checkpoint and demur.json"""
        return self.root / "train" / "model"

    @property
    def policy(self) -> Path:
        """calibrate/policy.json"""
        return self.stage("calibrate") / "policy.json"

    @property
    def calibrator(self) -> Path:
        """calibrate/calibrator.json: there only if a calibrator was asked for"""
        return self.stage("calibrate") / "calibrator.json"

    @property
    def traffic(self) -> Path:
        """calibrate/traffic.parquet: the traffic whose mix is promised for, there only then"""
        return self.stage("calibrate") / "traffic.parquet"

    @property
    def branches(self) -> Path:
        """evaluate/branches.parquet"""
        return self.stage("evaluate") / "branches.parquet"

    @property
    def metrics(self) -> Path:
        """evaluate/metrics.json"""
        return self.stage("evaluate") / "metrics.json"

    @property
    def report(self) -> Path:
        """report/index.html"""
        return self.stage("report") / "index.html"

    def receipt(self, stage: Stage | Beside) -> Receipt | None:
        """The receipt of a finished stage, None if it has not finished. Raises ArtifactError if
        damaged.
        """
        path = self.stage(stage) / "made.json"
        return validated(Receipt, read_json(path), str(path)) if path.exists() else None

    def finish(
        self,
        stage: Stage | Beside,
        settings: dict[str, object],
        made_from: Mapping[str, str],
        files: list[Path],
    ) -> None:
        """Write the receipt of a stage: its files exist, whole, and were made from these inputs."""
        made = {str(f.relative_to(self.root)): digest_file(f) for f in files}
        receipt = Receipt(stage=stage, settings=settings, made_from=dict(made_from), made=made)
        write_json(self.stage(stage) / "made.json", receipt.model_dump(mode="json"))

    def is_current(
        self, stage: Stage | Beside, settings: dict[str, object], made_from: Mapping[str, str]
    ) -> bool:
        """Whether a stage is finished, with these settings and inputs, and its files are
        unchanged.
        """
        receipt = self.receipt(stage)
        if receipt is None or receipt.made_from != dict(made_from):
            return False
        # A receipt has been through JSON, where tuples are lists: digests compare what both write.
        if digest_json(receipt.settings) != digest_json(settings):
            return False
        return all(
            (self.root / f).exists() and digest_file(self.root / f) == d
            for f, d in receipt.made.items()
        )

    def require(self, stage: Stage | Beside, *names: str) -> Receipt:
        """The receipt of a stage that must be finished and up to date.

        names: compare only these of its files, relative to the run folder; without names: all.
        Raises ArtifactError naming a file that changed since, or an input that is another by now.
        """
        receipt = self.receipt(stage)
        if receipt is None:
            raise ArtifactError(f"{self.stage(stage)} is not finished", _remedy(stage, self))
        for name in names or receipt.made:
            path = self.root / name
            if not path.exists() or digest_file(path) != receipt.made.get(name):
                state = "is missing" if not path.exists() else "has changed since it was made"
                raise ArtifactError(f"{path} {state}", f"restore it, or {_remedy(stage, self)}")
        self._require_inputs(receipt)
        return receipt

    def require_fresh(self, stage: Stage) -> None:
        """Raise ArtifactError, as `require` does, if an input of a finished stage is another now.

        Edited files of the stage, and a stage that never ran, are left to the code that reads them.
        """
        if (receipt := self.receipt(stage)) is not None:
            self._require_inputs(receipt)

    def changed_inputs(self, receipt: Receipt) -> list[str]:
        """The inputs of a stage, within this run, that are others by now or gone.

        Inputs from outside the run are not compared, nor are the rows that a model was trained on:
        the model folder keeps a record of those, which stays true when the split changes.
        """
        if receipt.stage in ("blackbox", "data", "train"):
            return []
        return [
            name
            for name, digest in receipt.made_from.items()
            if self._digest_now(name, digest) != digest
        ]

    def _require_inputs(self, receipt: Receipt) -> None:
        if changed := self.changed_inputs(receipt):
            raise ArtifactError(
                f"{self.stage(receipt.stage)} is out of date: it was made from another "
                f"{', '.join(changed)} than is there now",
                _remedy(receipt.stage, self),
            )

    def _digest_now(self, name: str, unknown: str) -> str | None:
        """The digest of an input by its name in receipts; None if it is gone, `unknown` if it is
        not of this run.

        Where its whole stage is gone, the run was cleared on purpose, and the input counts as
        unchanged.
        """
        stage: str
        if name == "model":
            path = self.model / "demur.json"
            return digest_json(read_json(path).get("fingerprint")) if path.exists() else unknown
        stage, slash, rest = name.partition("/")
        if not slash or stage not in (*STAGES, "distil"):
            return unknown
        # Receipts name splits and scores without a suffix: "data/train", "score/test".
        suffix = "" if "." in rest else {"data": ".jsonl", "score": ".parquet"}.get(stage, "")
        # "score/case" is a rewrite of the calibrate rows: score/calibrate-case.parquet
        paths = [self.root / stage / f"{before}{rest}{suffix}" for before in ("", "calibrate-")]
        # calibrate/NAME/policy.json belongs to the receipt in calibrate/NAME; files of a model lie
        # deeper than the receipt of their stage
        finished = self.root / stage if stage == "train" else paths[0].parent
        gone = None if (finished / "made.json").exists() else unknown
        return next((digest_file(path) for path in paths if path.exists()), gone)


def run_of(policy: Path) -> RunFolder | None:
    """The run, as that policy sees it, in which a policy file lies; None for a file elsewhere."""
    # <run>/calibrate/policy.json, or <run>/calibrate/NAME/policy.json
    own = RunFolder(policy.parent.parent)
    beside = RunFolder(own.root.parent, policy.parent.name)
    return next((folder for folder in (own, beside) if folder.policy == policy), None)


def _remedy(stage: Stage | Beside, folder: RunFolder) -> str:
    """The command that makes a stage again."""
    if stage == "distil":
        return f"run: demur distil {folder.root} --traffic FILE"
    if stage == "blackbox":
        return f"run: demur blackbox PROMPTS --out {folder.root}; what was answered is kept"
    if stage == "data":
        return f"run: demur data CONFIG --out {folder.root}"
    flag = {"calibrate": "--name", "evaluate": "--policy", "report": "--policy"}.get(stage)
    own = f" {flag} {folder.policy_name}" if flag and folder.policy_name else ""
    return f"run: demur {stage} {folder.root}{own}"
