"""Scores of methods from votes: known cases, intervals, separation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.special import expit

from upsr.evaluation.preferences import Preference, rank

TRUE = {"a": -0.8, "b": -0.2, "c": 0.1, "d": 0.9}


def drawn(draw: np.random.Generator, photos: int, voters: int = 1, equal: float = 0.3) -> list[Preference]:
    """Three random pairs of each photo; the voters agree in all."""
    votes = []
    for photo, _ in itertools.product(range(photos), range(3)):
        first, second = draw.choice(list(TRUE), 2, replace=False)
        share = expit(TRUE[first] - TRUE[second])
        tie = 2 * equal * min(share, 1 - share)  # leaves the mean of the points as it is
        points = float(draw.choice([1, 0.5, 0], p=[share - tie / 2, tie, 1 - share - tie / 2]))
        votes += [Preference(("Set", str(photo)), str(first), str(second), points)] * voters
    return votes


def scores(votes: list[Preference]) -> dict[str, float]:
    return {score.method: score.score for score in rank(votes).scores}


def test_planted_scores_are_recovered():
    found = scores(drawn(np.random.default_rng(0), 4000))
    assert list(found) == ["d", "c", "b", "a"]
    assert found == pytest.approx(TRUE, abs=0.06)


def test_two_methods_have_the_score_of_their_shares():
    votes = [Preference(("Set", str(i)), "x", "y", float(i % 10 < 7)) for i in range(10_000)]
    ranking = rank(votes)
    assert ranking.duels[0].difference == pytest.approx(np.log(0.7 / 0.3), abs=1e-3)
    half = (ranking.duels[0].high - ranking.duels[0].low) / 2  # of the logarithm of odds
    assert half == pytest.approx(1.96 / np.sqrt(10_000 * 0.7 * 0.3), rel=1e-2)


@pytest.mark.parametrize("voters", [1, 5])
def test_intervals_hold_the_score_also_where_voters_agree(voters):
    draw = np.random.default_rng(1)
    found = [score for _ in range(60) for score in rank(drawn(draw, 30, voters)).scores]
    assert np.mean([score.low <= TRUE[score.method] <= score.high for score in found]) >= 0.92
    spread = np.sqrt(np.mean([(score.score - TRUE[score.method]) ** 2 for score in found]))
    assert (
        np.mean([(score.high - score.low) / 2 for score in found]) < 1.5 * 1.96 * spread
    )  # and are no wider than that


def test_votes_that_are_all_equal_say_that_there_is_no_difference():
    votes = [Preference(("Set", str(i)), *pair, 0.5) for i in range(5) for pair in (("x", "y"), ("y", "z"), ("z", "x"))]
    ranking = rank(votes)
    assert [score.method for score in ranking.scores] == ["x", "y", "z"]
    for score in ranking.scores:
        assert score.score == pytest.approx(0, abs=1e-6)
        assert (score.votes, score.wins, score.equal, score.losses, score.points) == (10, 0, 10, 0, 0.5)
        assert score.low < -0.2  # 10 equal votes do not prove it
        assert score.high > 0.2
        assert not score.bounded


def test_neither_the_side_nor_the_order_of_votes_matters():
    votes = drawn(np.random.default_rng(2), 20)
    turned = [Preference(vote.photo, vote.second, vote.first, 1 - vote.points) for vote in reversed(votes)]
    assert rank(turned) == rank(votes)


def test_a_method_that_lost_no_point_has_a_finite_score_that_says_so():
    votes = [
        Preference(("Set", str(i)), *pair)
        for i in range(6)
        for pair in (("x", "y", 1.0), ("x", "z", 1.0), ("y", "z", i % 2))
    ]
    ranking = rank(votes)
    best = ranking.scores[0]
    assert (best.method, best.bounded, best.losses, best.points) == ("x", True, 0, 1)
    assert 1 < best.score < 5
    assert best.high - best.low > 1
    assert [score.bounded for score in ranking.scores] == [True, False, False]
    more = rank([*votes, *votes, *votes]).scores[0]
    assert best.score < more.score < 6


def test_methods_that_were_never_compared_are_in_different_groups():
    votes = [
        Preference(("Set", str(i)), *pair, i % 2) for i in range(4) for pair in (("a", "b"), ("c", "d"), ("d", "e"))
    ]
    assert sorted(map(sorted, rank(votes).groups)) == [["a", "b"], ["c", "d", "e"]]
    assert [(duel.first, duel.second) for duel in rank(votes).duels] == [("a", "b"), ("c", "d"), ("d", "e")]


def test_votes_on_one_photo_have_no_interval():
    ranking = rank([Preference(("Set", "one"), "a", "b", 1.0)])
    assert (ranking.votes, ranking.photos) == (1, 1)
    assert (ranking.scores[0].low, ranking.duels[0].high) == (None, None)
