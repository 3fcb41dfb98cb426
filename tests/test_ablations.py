"""The page of ablations says what the result files say, also where that is not what the paper says."""

from __future__ import annotations

import json

import pytest
import yaml

from scripts import ablations
from upsr.config import load_options
from upsr.config.difference import option_differences
from upsr.errors import UpsrError


def results(niqe_without_unw: float) -> dict:
    """Results of all variants: the same values for each, but for NIQE without UNW."""

    def values(metric: str, name: str) -> dict:
        shift = niqe_without_unw if (name, metric) == ("neither", "niqe") else 0.0
        return {str(seed): {f"photo {i}": 5 + i / 10 + shift for i in range(8)} for seed in range(2)}

    variants = [name for name in ablations.VARIANTS if name != "steps_15"]
    by_metric = {metric: {name: values(metric, name) for name in variants} for metric in ablations.METRICS}
    return {
        "machine": {"cpu": "an abacus", "threads": 2},
        "iterations": 240,
        "costs": {name: {"parameters": 1, "seconds": 0.5} for name in variants},
        "values": {dataset: by_metric for dataset in (ablations.PAIRS, ablations.PHOTOS)},
    }


@pytest.mark.parametrize(
    ("difference", "verdict"), [(0.3, "agrees"), (-0.3, "**disagrees**"), (0.0, "not decided: the interval holds 0")]
)
def test_claims_are_judged_by_what_was_measured(difference, verdict):
    lines = list(ablations.page(results(difference)))
    (line,) = (line for line in lines if line.startswith("| UNW improves NIQE"))
    assert line.endswith(f"| {verdict} |")
    assert f"| {0.0 - difference:+.2f} [" in line


def test_better_and_worse_are_marked_and_variants_not_measured_left_out():
    lines = list(ablations.page(results(0.3)))
    (row, *_) = (line for line in lines if line.startswith("| neither"))
    assert row.count("▼") == 1
    assert "▲" not in row
    assert not any(line.startswith("| T = 15") for line in lines)
    assert any("8 of BSD100-degraded, 8 of RealSet65-crops" in line for line in lines)


def test_the_page_is_written_from_the_result_file(tmp_path, monkeypatch):
    monkeypatch.setattr(ablations, "RESULTS", tmp_path / "results.json")
    monkeypatch.setattr(ablations, "PAGE", tmp_path / "page.md")
    with pytest.raises(UpsrError, match=r"results\.json: no results; run `train evaluate` first"):
        ablations.report()
    (tmp_path / "results.json").write_text(json.dumps(results(0.3)))
    ablations.report()
    assert (tmp_path / "page.md").read_text().startswith("# The paper's ablations at tiny scale")


def test_the_committed_page_is_that_of_the_committed_results():
    kept = json.loads(ablations.RESULTS.read_text())
    assert ablations.PAGE.read_text() == "\n".join(ablations.page(kept)) + "\n"


@pytest.mark.parametrize("path", sorted((ablations.OPTIONS / "ablation").glob("*.yml")), ids=lambda path: path.stem)
def test_a_variant_changes_what_it_is_named_after_and_nothing_else(path):
    full = load_options(ablations.OPTIONS / "ablation/unw_sr.yml").model_dump(mode="json")
    own = load_options(path).model_dump(mode="json")
    stated = yaml.safe_load(path.read_text())
    changed = {change.split(":")[0].split(".")[0] for change in option_differences(full, own)}
    if path.stem != "unw_sr":
        assert changed == set(stated) - {"base"}


def test_every_trained_variant_has_its_option_file():
    for variant in ablations.VARIANTS.values():
        for name in {variant.trained, variant.tested} - {None}:
            assert (ablations.OPTIONS / f"{name}.yml").is_file()
    shown = {name for group in ablations.GROUPS for name in (*group.variants, group.reference)}
    assert shown == set(ablations.VARIANTS)
