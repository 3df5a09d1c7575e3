"""Followed answers of a split: written after a forced [respond], in parts.

1. A row has one answer. Where answers are sampled, a calibrate row that stands for several requests
   has as many: each request of a frequent prompt gets an answer of its own in service, and one
   draw would say nothing of how often such answers are stopped.
2. Answers take far longer than scores, so a part has fewer rows, and a killed run goes on with the
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
    wanted = {s: _requests(asked, s, examples) for s, examples in splits.items()}
    total, done, made = sum(map(len, wanted.values())), 0, []
    for split, requests in wanted.items():
        path = answers_path(folder, split)
        # a file that another setting of the score stage left as it is
        if not _is_of(path, requests, asked, watcher.fingerprint):
            own = progress_of_part(progress, done, total)
            answers = _follow(asked, watcher, _parts(folder, split), requests, own)
            file = AnswersFile(
                scoring=asked.scoring, fingerprint=watcher.fingerprint, answers=tuple(answers)
            )
            write_answers(path, file)
        done += len(requests)
        progress(done, total)
        made.append(path)
    return made


def _parts(folder: RunFolder, split: Split) -> Path:
    """What the names of part files begin with."""
    return folder.stage("score") / "parts" / f"{split}-{NAME}"


def _requests(
    asked: AnswerSettings, split: Split, examples: Sequence[Example]
) -> list[tuple[str, Prompt]]:
    """The prompts to answer, each with its row's id; a row's answers follow one another."""
    several = split == "calibrate" and asked.scoring.answers.temperature > 0.0
    return [(e.id, e.prompt) for e in examples for _ in range(e.count if several else 1)]


def _follow(
    asked: AnswerSettings,
    watcher: AnswerWatcher,
    parts: Path,
    requests: Sequence[tuple[str, Prompt]],
    progress: Progress,
) -> list[FollowedAnswer]:
    """The followed answers to the requests; parts that are on disk already are read."""
    found: list[FollowedAnswer] = []
    while (start := len(found)) < len(requests):
        some = _part_from(requests, start)
        path = parts.with_name(f"{parts.name}-{start}.parquet")
        if _is_of(path, some, asked, watcher.fingerprint):
            found += read_answers(path).answers
        else:
            on = progress_of_part(progress, start, len(requests))
            prompts = [prompt for _, prompt in some]
            written = watcher.watched(prompts, asked.scoring.answers, (), on)
            part = [_followed(asked, i, w) for (i, _), w in zip(some, written, strict=True)]
            file = AnswersFile(
                scoring=asked.scoring, fingerprint=watcher.fingerprint, answers=tuple(part)
            )
            write_answers(path, file)
            found += part
        progress(start + len(some), len(requests))
    return found


def _part_from(requests: Sequence[tuple[str, Prompt]], start: int) -> Sequence[tuple[str, Prompt]]:
    """The next requests, all of a row among them: the draws of one call differ."""
    end = min(start + _PART_ROWS, len(requests))
    while end < len(requests) and requests[end][0] == requests[end - 1][0]:
        end += 1
    return requests[start:end]


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
    path: Path,
    requests: Sequence[tuple[str, Prompt]],
    asked: AnswerSettings,
    model: Fingerprint,
) -> bool:
    """Whether a file is whole and holds this model's answers to these requests, as asked for."""
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
    return kept and same and [a.scored.id for a in file.answers] == [i for i, _ in requests]
