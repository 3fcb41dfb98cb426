"""The blind page of pairs of results, and the reading of exported votes."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests import tiny
from tests.evaluations import run, save_rrdb, workplace, write
from upsr.cli import main
from upsr.evaluation.preferences import Preference, rank
from upsr.report.photos import differing_places
from upsr.report.vote_page import draw_pairs, read_key, write_vote_page

METHODS = ("bicubic", "RRDB", "Rival")


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory) -> Path:
    """A place with an evaluation in results/; all photos are small but two."""
    pytest.importorskip("pyiqa", reason="needs the extra: pip install 'upsr[metrics]'")
    root = workplace(tmp_path_factory.mktemp("place"))
    Image.fromarray(tiny.picture(132, 140, 7)).save(root / "datasets/Wild/large.png")
    Image.fromarray(tiny.picture(40, 140, 8)).save(root / "datasets/Wild/long.png")
    save_rrdb(root / "weights/rival.pth", seed=1)
    write(root / "options/methods/Rival.yml", {"make": {"type": "Checkpoint", "path": "weights/rival.pth"}})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        run(root, methods=METHODS, metrics=("psnr", "niqe"))
    return root


@pytest.fixture
def place(evaluated, tmp_path, monkeypatch) -> Path:
    """A copy of it, as the current folder."""
    shutil.copytree(evaluated, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def data_of(page: Path) -> dict[str, Any]:
    return dict(json.loads(page.read_text().split('id="data">')[1].split("</script>")[0]))


def write_votes(path: Path, page: str, choices: dict[int, str], voter: str = "Ann", **changes: Any) -> str:
    votes = [{"pair": pair, "choice": choice} for pair, choice in choices.items()]
    path.write_text(json.dumps({"format": "upsr votes 1", "page": page, "voter": voter, "votes": votes, **changes}))
    return str(path)


def refusal(capsys, *arguments: str) -> str:
    """The one line of a mistake."""
    assert main(["report", "results", *arguments]) == 2
    error = capsys.readouterr().err
    *warnings, line = error.splitlines()
    assert line.startswith("error: ")
    assert all(warning.startswith("warning: ") for warning in warnings)
    return str(line)


def test_pairs_are_balanced_over_methods_photos_and_sides():
    photos = {("Set", str(i)): METHODS for i in range(12)}
    pairs = draw_pairs(photos, METHODS, seed=3)
    assert len(set(pairs)) == len(pairs) == 36
    assert len({(pair.photo, frozenset((pair.left, pair.right))) for pair in pairs}) == 36
    sides = Counter((pair.left, pair.right) for pair in pairs)
    assert set(sides.values()) == {6}
    assert len(sides) == 6
    assert Counter(pair.photo for pair in pairs[:12]) == dict.fromkeys(photos, 1)  # all photos before one comes again
    assert set(Counter(frozenset((pair.left, pair.right)) for pair in pairs[:12]).values()) == {4}
    assert pairs == draw_pairs(photos, METHODS, seed=3) != draw_pairs(photos, METHODS, seed=4)
    few = draw_pairs({**photos, ("Set", "3"): ["RRDB"], ("Set", "4"): ["RRDB", "bicubic"]}, METHODS, seed=3)
    assert len(few) == 36 - 3 - 2


def test_the_page_names_no_method_and_shows_the_pixels_of_the_key(place, capsys):
    assert main(["report", "results", "--vote", "--seed", "5"]) == 0
    page = place / "results/vote/index.html"
    assert capsys.readouterr().out.strip().endswith("index.html: 30 of 30 pairs")
    files = [path for path in page.parent.rglob("*") if path.is_file()]
    seen = page.read_text() + "".join(str(path.relative_to(page.parent)) for path in files)
    assert [name for name in (*METHODS, "photo 1", "Tiny", "Wild") if name.lower() in seen.lower()] == []
    assert {path.name for path in files if path.suffix != ".webp"} == {"index.html", "key.js"}
    text = page.read_text()
    assert not re.findall(r"https?://|src=\"(?!pictures)|@import|url\(", text)

    data, (digest, key) = data_of(page), read_key(page.parent)
    assert data["page"] == digest
    assert len(data["pairs"]) == len(key) == 30
    for shown, whose in zip(data["pairs"], key, strict=True):
        restored = {}
        for method in METHODS:
            with Image.open(
                place / f"results/images/{method}/seed_0/{whose['dataset']}/{whose['image']}.png"
            ) as picture:
                restored[method] = np.asarray(picture.convert("RGB"))
        top, left = 0, 0
        if side := {"large": 512, "long": 160}.get(whose["image"]):
            ((top, left),) = differing_places(list(restored.values()), side, 1)
            assert shown["size"] == [side, side]
        for hand in ("left", "right"):
            with Image.open(page.parent / shown[hand]) as picture:
                seen = np.asarray(picture)
            height, width = seen.shape[:2]
            assert [width, height] == shown["size"]
            assert np.array_equal(seen, restored[whose[hand]][top : top + height, left : left + width])
        assert ("truth" in shown) == (whose["dataset"] == "Tiny")
        with Image.open(page.parent / shown["input"]) as picture:
            assert list(picture.size) == shown["size"]


def test_a_page_is_the_same_for_its_seed_and_others_have_another_identity(place):
    folder = place / "results"
    first, _, _ = write_vote_page(folder, 100, seed=1)
    content = {path.name: path.read_bytes() for path in first.parent.rglob("*") if path.is_file()}
    write_vote_page(folder, 100, seed=2)
    other = read_key(first.parent)[0]
    (first.parent / "votes-Ann.json").write_text("kept")
    write_vote_page(folder, 100, seed=1)
    assert (first.parent / "votes-Ann.json").read_text() == "kept"
    (first.parent / "votes-Ann.json").unlink()
    again = {path.name: path.read_bytes() for path in first.parent.rglob("*") if path.is_file()}
    assert again == content
    digest, pairs = read_key(first.parent)
    assert digest != other
    _, few, every = write_vote_page(folder, 7, seed=1)
    assert (few, every) == (7, 30)
    assert read_key(first.parent)[1] == pairs[:7]
    write_vote_page(folder, 100, seed=1, methods=["RRDB", "bicubic"])
    assert len(read_key(first.parent)[1]) == 10
    changed = folder / "images/RRDB/seed_0/Wild/large.png"
    Image.fromarray(np.zeros((528, 560, 3), np.uint8)).save(changed)
    write_vote_page(folder, 100, seed=1)
    assert read_key(first.parent)[0] != digest  # another picture is another page


def test_votes_become_tables(place, capsys):
    write_vote_page(place / "results", 100)
    digest, pairs = read_key(place / "results/vote")
    order = ["RRDB", "bicubic", "Rival"]  # Ann's taste; Bob sees no difference
    ann = {i: "left" if order.index(p["left"]) < order.index(p["right"]) else "right" for i, p in enumerate(pairs)}
    files = [
        write_votes(place / "first.json", digest, dict(list(ann.items())[:9])),
        write_votes(place / "all.json", digest, ann),
        write_votes(place / "bob.json", digest, dict.fromkeys(range(20), "equal"), voter="Bob é"),
    ]
    assert main(["report", "results", "--votes", *files]) == 0
    out = capsys.readouterr().out
    assert out.strip().endswith("results/vote_scores.md")
    assert "votes: 30 of Ann, 20 of Bob é" in out
    text = (place / "results/vote_scores.md").read_text()
    assert re.findall(r"^### (.*)", text, re.M)[-1] == "all: 50 votes on 10 photos"
    found = json.loads((place / "results/vote_scores.json").read_text())
    assert list(found["rankings"]) == ["Tiny", "Wild", "all"]
    assert found["voters"] == {"Ann": 30, "Bob é": 20}
    scores = found["rankings"]["all"]["scores"]
    assert [score["method"] for score in scores] == order
    assert sum(score["wins"] for score in scores) == sum(score["losses"] for score in scores) == 30
    assert sum(score["equal"] for score in scores) == 40
    duel = found["rankings"]["all"]["duels"][0]
    assert (duel["first"], duel["second"], duel["wins"], duel["losses"]) == ("RRDB", "bicubic", 10, 0)
    before = text, (place / "results/vote_scores.json").read_bytes()
    assert main(["report", "results", "--votes", *reversed(files)]) == 0
    assert before == ((place / "results/vote_scores.md").read_text(), (place / "results/vote_scores.json").read_bytes())
    assert main(["report", "results", "--votes", files[1]]) == 0
    assert "all: RRDB lost no vote" in capsys.readouterr().out.replace("\n", " ")


def test_votes_that_do_not_fit_are_refused_in_one_line(place, capsys):
    assert "no key of a page of votes" in refusal(capsys, "--votes", "a.json")
    write_vote_page(place / "results", 100)
    digest, _ = read_key(place / "results/vote")
    a = write_votes(place / "a.json", digest, {0: "left", 1: "equal"})
    assert "b.json: no such file" in refusal(capsys, "--votes", a, "b.json")
    other = write_votes(place / "other.json", "0" * 64, {0: "left"})
    assert "other.json: votes on another page" in refusal(capsys, "--votes", a, other)
    at_odds = write_votes(place / "b.json", digest, {1: "left"})
    assert "the vote of 'Ann' on pair 2 is left, in " in refusal(capsys, "--votes", a, at_odds)
    far = write_votes(place / "far.json", digest, {30: "left"})
    assert "a vote on pair 31, but the page has 30" in refusal(capsys, "--votes", far)
    assert "votes.0.choice" in refusal(capsys, "--votes", write_votes(place / "c.json", digest, {0: "both"}))
    assert "voter" in refusal(capsys, "--votes", write_votes(place / "d.json", digest, {0: "left"}, voter=3))
    assert "method" in refusal(capsys, "--votes", write_votes(place / "e.json", digest, {0: "left"}, method="RRDB"))
    assert "no votes" in refusal(capsys, "--votes", write_votes(place / "f.json", digest, {}))
    for content in ("", "[]", Path(a).read_text()[:-20], "\udcff"):
        (place / "cut.json").write_bytes(content.encode("utf-8", "surrogateescape"))
        assert "cut.json: not " in refusal(capsys, "--votes", "cut.json")
    (place / "results/vote/key.js").write_text("reveal([1, 2]);\n")
    assert "not the key of a page of votes" in refusal(capsys, "--votes", a)


def test_a_page_that_cannot_be_made_is_refused_in_one_line(place, capsys):
    assert "no results of 'RRBD'; did you mean 'RRDB'?" in refusal(capsys, "--vote", "--methods", "RRBD", "bicubic")
    assert "restored images of two methods" in refusal(capsys, "--vote", "--methods", "RRDB")
    assert "--pairs 0: give 1 or more" in refusal(capsys, "--vote", "--pairs", "0")
    assert "--seed: it belongs to --vote" in refusal(capsys, "--seed", "1")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(place / "results/images/RRDB/seed_0/Wild/large.png")
    assert "results of 'large' of Wild differ in size" in refusal(capsys, "--vote")
    shutil.rmtree(place / "results/images")
    assert "without --no-images" in refusal(capsys, "--vote")


def loaded(page) -> None:
    page.wait_for_function("ready || document.getElementById('voting').hidden")


def placed(page) -> list[str]:
    """Where the left and the right picture are in their frames."""
    return list(
        page.evaluate("['left', 'right'].map((side) => document.getElementById(`${side}-image`).style.transform)")
    )


def placed_at(x: int, place: str) -> str:
    return re.sub(r"translate\(\S+px,", f"translate({x}px,", place)


def given(page) -> list[tuple[int, str]]:
    return [(vote["pair"], vote["choice"]) for vote in page.evaluate("state.votes")]


def test_the_page_works_by_keys_from_disk(place, browser, capsys):
    write_vote_page(place / "results", 8)
    digest, key = read_key(place / "results/vote")
    shutil.copytree(place / "results/vote", place / "elsewhere")  # it needs nothing but itself
    context = browser.new_context(viewport={"width": 390, "height": 700}, color_scheme="dark")
    page = context.new_page()
    trouble: list[str] = []
    page.on("console", lambda message: trouble.append(message.text))
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("request", lambda request: trouble.append(request.url) if "elsewhere" not in request.url else None)
    page.goto(f"file://{place / 'elsewhere/index.html'}")
    assert page.evaluate("getComputedStyle(document.body).colorScheme") == "light dark"
    page.keyboard.type("Ann")
    page.keyboard.press("Enter")
    loaded(page)
    assert page.locator("#place").inner_text() == "1 of 8"

    page.keyboard.press("Tab")  # buttons, and the pictures as buttons, can be reached and have names
    names = []
    for _ in range(10):
        names.append(page.evaluate("document.activeElement.ariaLabel ?? document.activeElement.textContent.trim()"))
        page.keyboard.press("Tab")
    assert names[:3] == ["Stop", "left picture, zoom", "right picture, zoom"]
    assert {"left is better", "equal", "right is better"} <= {re.sub(" ?[←↓→] ?", "", name) for name in names}
    page.focus("#right")
    fitted = placed(page)
    page.keyboard.press("Space")  # on a picture it zooms, anywhere else it votes
    assert given(page) == []
    assert page.locator("#zoom").get_attribute("aria-pressed") == "true"
    page.keyboard.press("Space")
    page.focus("#place")
    page.keyboard.down("x")
    zoomed = placed(page)
    page.keyboard.press("d")
    moved = placed(page)
    page.keyboard.up("x")
    assert placed(page) == fitted
    for left, right in (fitted, zoomed, moved):
        assert left == right
    assert len({fitted[0], zoomed[0], moved[0]}) == 3
    page.locator("#left").click(position={"x": 10, "y": 170})  # near the left edge, and so it is shown
    clicked = placed(page)
    box = page.locator("#right").bounding_box()
    page.mouse.move(box["x"] + 100, box["y"] + 100)
    page.mouse.down()
    page.mouse.move(box["x"] + 80, box["y"] + 100, steps=4)
    page.mouse.up()  # a drag moves both and is no click
    dragged = placed(page)
    assert clicked[0] == clicked[1] == placed_at(0, clicked[0])
    assert dragged[0] == dragged[1] == placed_at(-20, clicked[0])
    page.locator("#right").click()
    assert placed(page) == fitted
    page.keyboard.press("i")
    assert page.locator(".reference:visible").count() == 2
    page.keyboard.press("i")
    assert page.locator(".reference:visible").count() == 0

    for pressed in ("ArrowLeft", "ArrowRight", "Space", "ArrowLeft", "Backspace", "ArrowDown", "ArrowRight", "z"):
        page.keyboard.press(pressed)
        loaded(page)
    expected = [(0, "left"), (1, "right"), (2, "equal"), (3, "equal")]
    assert given(page) == expected
    page.reload()  # votes outlive the page, for each voter
    page.keyboard.type("Bob")
    page.keyboard.press("Enter")
    loaded(page)
    assert given(page) == []
    page.locator("[data-choice=right]").click()
    loaded(page)
    page.keyboard.press("Space")  # the click left no focus that Space would press again
    loaded(page)
    assert given(page) == [(0, "right"), (1, "equal")]
    page.click("#stop")
    page.click("#other")
    assert page.locator("#voters option").evaluate_all("found => found.map((one) => one.value)") == ["Ann", "Bob"]
    page.keyboard.type("Ann")
    page.keyboard.press("Enter")
    loaded(page)
    assert page.locator("#place").inner_text() == "5 of 8"
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    for _ in range(4):
        page.keyboard.press("ArrowLeft")
        loaded(page)
    with page.expect_download() as download:
        page.click("#export")
    assert download.value.suggested_filename == "votes-Ann.json"
    download.value.save_as(place / "votes-Ann.json")
    assert page.locator("body").inner_text().count("RRDB") == 0
    page.click("#show")
    page.wait_for_selector("#ranking td")
    shown = [line.locator("th, td").all_inner_texts() for line in page.locator("#ranking tbody tr").all()]
    votes = json.loads((place / "votes-Ann.json").read_text())["votes"]
    assert [(vote["pair"], vote["choice"]) for vote in votes] == [*expected, *((i, "left") for i in range(4, 8))]
    points = {"left": 1, "equal": 0.5, "right": 0}
    ranking = rank(
        [
            Preference(("", str(v["pair"])), key[v["pair"]]["left"], key[v["pair"]]["right"], points[v["choice"]])
            for v in votes
        ]
    )
    assert [(line[0], float(line[1]), *map(int, line[3:6])) for line in shown] == [
        (s.method, pytest.approx(s.score, abs=0.0051), s.wins, s.equal, s.losses) for s in ranking.scores
    ]
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert trouble == []

    other = context.new_page()  # another page from disk shares the browser's store, but not the votes
    write_vote_page(place / "results", 8, seed=1)
    other.goto(f"file://{place / 'results/vote/index.html'}")
    assert other.locator("#voters option").count() == 0
    other.set_input_files("#import", place / "votes-Ann.json")
    other.wait_for_function("document.getElementById('said').textContent")
    assert other.locator("#said").inner_text() == "votes-Ann.json: votes of another page."
    elsewhere = browser.new_page()  # another computer
    (place / "elsewhere/key.js").unlink()
    elsewhere.goto(f"file://{place / 'elsewhere/index.html'}")
    (place / "cut.json").write_text((place / "votes-Ann.json").read_text()[:-30])
    for name, said in (
        ("cut", "not a file of votes that such a page exports"),
        ("votes-Ann", "8 votes of Ann are added"),
    ):
        elsewhere.set_input_files("#import", place / f"{name}.json")
        elsewhere.wait_for_function("(said) => document.getElementById('said').textContent.includes(said)", arg=said)
    elsewhere.click("#who button")
    assert elsewhere.locator("#count").inner_text() == "Ann: 8 of 8 pairs"
    elsewhere.click("#show")
    elsewhere.wait_for_function("document.getElementById('said').textContent.startsWith('key.js, which says')")
    assert not elsewhere.locator("#scores").is_visible()
    elsewhere.close()
    context.close()
    assert digest != read_key(place / "results/vote")[0]
    assert "votes on another page" in refusal(capsys, "--votes", "votes-Ann.json")
    write_vote_page(place / "results", 8)
    assert main(["report", "results", "--votes", "votes-Ann.json"]) == 0
