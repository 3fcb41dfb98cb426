"""The table of short trainings says what the results file says."""

from __future__ import annotations

import json

from scripts import recipes


def made_up(shift: float) -> dict:
    """Two crops of each of ten photos; every value of ``new`` differs from ``old`` by about ``shift``."""
    crops = {f"{n:08d}": (n // 10, f"photo {n % 10}") for n in range(20)}

    def values(more: float) -> dict:
        return {
            key: {
                "psnr": 20 + n % 7 + more,
                "lpips_squeeze": 0.5 + more / 10,
                "niqe": 6 - more,
                "grid": 9 + 0.01 * (n % 3),
            }
            for n, key in enumerate(crops)
        }

    return {
        "crops": crops,
        "values": {"bicubic": values(0), "old": values(0), "teacher": values(shift)},
        "costs": {"old": {"processor_seconds": 3}, "teacher": {"processor_seconds": 4}},
        "machine": {"cpu": "a processor"},
        "versions": {"torch": "2"},
    }


def test_marks_say_what_is_better_and_beyond_chance():
    lines = list(recipes.table(made_up(1.0)))
    assert lines[0].startswith("| 20 crops of 10 photos kept apart |")
    paired = next(line for line in lines if "`teacher` minus `old`" in line).split("|")
    assert "+1.00 [+1.00, +1.00] ▲" in paired[2]
    assert "+0.1000 [+0.1000, +0.1000] ▼" in paired[3]
    assert "-1.00 [-1.00, -1.00] ▲" in paired[4]
    assert "▲" not in paired[5]
    assert "▼" not in paired[5]


def test_crops_of_a_photo_count_as_one():
    rounds = recipes.by_round(made_up(0)["values"]["old"], "psnr", made_up(0)["crops"])
    assert sorted(rounds) == [0, 1]
    assert all(len(photos) == 10 for photos in rounds.values())


def test_the_page_has_the_table_of_the_results_in_the_repository():
    kept = json.loads(recipes.RESULTS.read_text(encoding="utf-8"))
    page = recipes.PAGE.read_text(encoding="utf-8")
    between = page.split(recipes.MARKS[0])[1].split(recipes.MARKS[1])[0]
    assert between.strip().splitlines() == [line for line in recipes.table(kept)]
    assert {len(images) for images in kept["values"].values()} == {len(kept["crops"])}
