"""Votes that people exported from the page of :mod:`upsr.report.vote_page`, and tables of their scores."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from rich.console import Console
from rich.text import Text

from upsr.atomic import atomic_write
from upsr.errors import UpsrError
from upsr.evaluation.preferences import EQUAL, LOSS, WIN, Duel, Preference, Ranking, Score, rank
from upsr.report.console import number_column, plain_table, text_column
from upsr.report.vote_page import FOLDER, read_key
from upsr.text import read_text

_POINTS = {"left": WIN, "equal": EQUAL, "right": LOSS}
_ALL = "all"
_SCORES = ("method", "score", "95 % interval", "votes", "points", "won/equal/lost")
_DUELS = ("method", "against", "difference", "95 % interval", "won/equal/lost")


class _Vote(BaseModel):
    model_config = ConfigDict(extra="forbid")

    pair: Annotated[int, Field(ge=0)]
    choice: Literal["left", "equal", "right"]


class _File(BaseModel):
    """A file of votes."""

    model_config = ConfigDict(extra="forbid")

    format: Literal["upsr votes 1"]
    page: str
    voter: Annotated[str, Field(min_length=1)]
    votes: list[_Vote]


@dataclass(frozen=True)
class Votes:
    """The votes of all voters.

    Attributes:
        page: digest of the key of the page.
        voters: numbers of their votes.
    """

    page: str
    voters: Mapping[str, int]
    preferences: Sequence[Preference]

    def rankings(self) -> dict[str, Ranking]:
        """Of each dataset, and of all where there are several."""
        datasets = sorted({vote.photo[0] for vote in self.preferences})
        own = {name: rank([vote for vote in self.preferences if vote.photo[0] == name]) for name in datasets}
        return own if len(own) == 1 else {**own, _ALL: rank(self.preferences)}


def read_votes(folder: Path, files: Sequence[Path]) -> Votes:
    """Exported votes on the page in the folder of an evaluation; a vote that is in several files counts once.

    Raises:
        UpsrError: there is no page, or a file is damaged, of another page, or at odds with another file of its voter.
    """
    page, pairs = read_key(folder / FOLDER)
    given: dict[str, dict[int, tuple[str, Path]]] = {}
    for path in files:
        content = _read(path)
        if content.page != page:
            raise UpsrError(
                f"{path}: votes on another page than {folder / FOLDER}; what made that page makes it again: "
                "`upsr report FOLDER --vote` with the same images, --pairs, --seed and --methods"
            )
        own = given.setdefault(content.voter, {})
        for vote in content.votes:
            if vote.pair >= len(pairs):
                raise UpsrError(
                    f"{path}: a vote on pair {vote.pair + 1}, but the page has {len(pairs)}; export it again"
                )
            choice, earlier = own.setdefault(vote.pair, (vote.choice, path))
            if choice != vote.choice:
                raise UpsrError(
                    f"{path}: the vote of '{content.voter}' on pair {vote.pair + 1} is {vote.choice}, in {earlier} "
                    f"it is {choice}; give one of the files, or two voters two names"
                )
    preferences = [
        Preference(
            (pairs[pair]["dataset"], pairs[pair]["image"]), pairs[pair]["left"], pairs[pair]["right"], _POINTS[choice]
        )
        for own in given.values()
        for pair, (choice, _) in own.items()
    ]
    if not preferences:
        raise UpsrError(f"{', '.join(map(str, files))}: no votes")
    return Votes(page, {voter: len(own) for voter, own in sorted(given.items())}, preferences)


def write_scores(folder: Path, votes: Votes) -> Path:
    """Print the tables; write ``vote_scores.md`` and ``vote_scores.json`` in the folder of the evaluation.

    Returns:
        The Markdown file.
    """
    rankings = votes.rankings()
    console = Console()
    voters = "votes: " + ", ".join(f"{count} of {name}" for name, count in votes.voters.items())
    console.print(voters, markup=False)
    lines = [voters, ""]
    for name, ranking in rankings.items():
        title = f"{name}: {ranking.votes} votes on {ranking.photos} photos"
        lines += [f"### {title}", ""]
        for names, heads, rows in ((1, _SCORES, _score_rows(ranking)), (2, _DUELS, _duel_rows(ranking))):
            table = plain_table(title if names == 1 else f"{name}: differences of two scores")
            for place, head in enumerate(heads):
                (text_column if place < names else number_column)(table, head)
            for row in rows:
                table.add_row(*map(Text, row))
            console.print(table)
            rule = ["---"] * names + ["---:"] * (len(heads) - names)
            lines += ["| " + " | ".join(row) + " |" for row in (heads, rule, *rows)] + [""]
        for remark in _remarks(name, ranking):
            console.print(remark, style="yellow", markup=False)
            lines += [remark, ""]
    content = {"page": votes.page, "voters": votes.voters, "rankings": {n: asdict(r) for n, r in rankings.items()}}
    with atomic_write(folder / "vote_scores.json") as path:
        path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    with atomic_write(folder / "vote_scores.md") as path:
        path.write_text("\n".join(lines), encoding="utf-8")
    return folder / "vote_scores.md"


def _read(path: Path) -> _File:
    try:
        return _File.model_validate_json(read_text(path), strict=True)
    except FileNotFoundError:
        raise UpsrError(f"{path}: no such file of votes") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        problem = f"{where}: {first['msg']}" if where else first["msg"]
        raise UpsrError(f"{path}: not votes that the page exports, or damaged ({problem}); export them again") from None


def _score_rows(ranking: Ranking) -> list[list[str]]:
    return [
        [s.method, f"{s.score:+.2f}", _span(s.low, s.high), str(s.votes), f"{s.points:.0%}", _counts(s)]
        for s in ranking.scores
    ]


def _duel_rows(ranking: Ranking) -> list[list[str]]:
    return [[d.first, d.second, f"{d.difference:+.2f}", _span(d.low, d.high), _counts(d)] for d in ranking.duels]


def _counts(record: Score | Duel) -> str:
    return f"{record.wins}/{record.equal}/{record.losses}"


def _span(low: float | None, high: float | None) -> str:
    return "-" if low is None or high is None else f"{low:+.2f} .. {high:+.2f}"


def _remarks(name: str, ranking: Ranking) -> Iterator[str]:
    """Limits of what the scores say."""
    for score in ranking.scores:
        if score.bounded:
            said = "lost" if score.points else "won"
            yield f"{name}: {score.method} {said} no vote, so its score would be infinite; it is kept finite by an equal vote"
    if len(ranking.groups) > 1:
        groups = "; ".join(", ".join(group) for group in ranking.groups)
        yield f"{name}: no votes connect these groups, so their scores are not comparable: {groups}"
