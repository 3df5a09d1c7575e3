"""Followed answers of a split: written after a forced [respond], one row each, in parts.

Answers take far longer than scores, so a part has fewer rows, and a killed run goes on with the
parts that this model wrote and followed in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from demur.base.errors import ArtifactError, EngineError
from demur.core.example import Example, Split
from demur.core.fingerprint import Fingerprint
from demur.core.midway.followed import scored_answer
from demur.core.ports import AnswerWatcher, Progress, Prompt, WatchedAnswer, progress_of_part
from demur.core.settings import AnswerSettings
from demur.store.run import RunFolder
from demur.store.scores.answer_peaks import (
    NAME,
    AnswersFile,
    FollowedAnswer,
    answers_path,
    read_answers,
    write_answers,
)

_PART_ROWS = 100  # answers between two saves


def follow_splits(
    asked: AnswerSettings,
    watcher: AnswerWatcher,
    folder: RunFolder,
    splits: Mapping[Split, Sequence[Example]],
    progress: Progress,
) -> list[Path]:
    """Write and follow an answer to each row of these splits; the files made.

    Raises ScoreError on position scores that are none.
    """
    total, done, made = sum(map(len, splits.values())), 0, []
    for split, examples in splits.items():
        prompts = {e.id: e.prompt for e in examples}
        path = answers_path(folder, split)
        # a file that another setting of the score stage left as it is
        if not _is_of(path, prompts, asked, watcher.fingerprint):
            own = progress_of_part(progress, done, total)
            answers = _follow(asked, watcher, _parts(folder, split), prompts, own)
            file = AnswersFile(
                scoring=asked.scoring, fingerprint=watcher.fingerprint, answers=tuple(answers)
            )
            write_answers(path, file)
        done += len(prompts)
        progress(done, total)
        made.append(path)
    return made


def _parts(folder: RunFolder, split: Split) -> Path:
    """What the names of part files begin with."""
    return folder.stage("score") / "parts" / f"{split}-{NAME}"


def _follow(
    asked: AnswerSettings,
    watcher: AnswerWatcher,
    parts: Path,
    prompts: Mapping[str, Prompt],
    progress: Progress,
) -> list[FollowedAnswer]:
    """The followed answers to the prompts, by id; parts that are on disk already are read."""
    ids, found = tuple(prompts), list[FollowedAnswer]()
    for start in range(0, len(ids), _PART_ROWS):
        some = {i: prompts[i] for i in ids[start : start + _PART_ROWS]}
        path = parts.with_name(f"{parts.name}-{start}.parquet")
        if _is_of(path, some, asked, watcher.fingerprint):
            found += read_answers(path).answers
        else:
            on = progress_of_part(progress, start, len(ids))
            written = watcher.watched(list(some.values()), asked.scoring.answers, (), on)
            part = [_followed(asked, i, w) for i, w in zip(some, written, strict=True)]
            file = AnswersFile(
                scoring=asked.scoring, fingerprint=watcher.fingerprint, answers=tuple(part)
            )
            write_answers(path, file)
            found += part
        progress(start + len(some), len(ids))
    return found


def _followed(asked: AnswerSettings, prompt: str, written: WatchedAnswer) -> FollowedAnswer:
    answer, logp_TC = written.answer, written.logp_TC
    if answer.tokens != len(logp_TC):
        raise EngineError(
            f"the answer to {prompt!r} has {answer.tokens} tokens and {len(logp_TC)} scores",
            "an engine gives the score of every token that it writes",
        )
    return FollowedAnswer(
        scored=scored_answer(asked.scoring, prompt, logp_TC, finished=answer.finished),
        text=answer.text if asked.texts else None,
        trace_TC=logp_TC if asked.traces else None,
    )


def _is_of(
    path: Path, prompts: Mapping[str, Prompt], asked: AnswerSettings, model: Fingerprint
) -> bool:
    """Whether a file is whole and holds this model's answers to these prompts, as asked for."""
    if not path.exists():
        return False
    try:
        file = read_answers(path)
    except ArtifactError:
        return False  # damaged: written again
    kept = all(
        (a.text is not None) == asked.texts and (a.trace_TC is not None) == asked.traces
        for a in file.answers
    )
    same = file.fingerprint == model and file.scoring == asked.scoring
    return kept and same and [a.scored.id for a in file.answers] == list(prompts)
