"""Published numbers beside published images: the way of measuring that gives them.

Papers differ in colours, borders, windows, averages and networks, and seldom say which. Every way that is known here is
tried, and those whose result is printed as the claimed number are named.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rich.console import Console
from tqdm import tqdm

from upsr.arguments import path
from upsr.atomic import atomic_write
from upsr.errors import UpsrError
from upsr.evaluation.claims import Finding, Pairs, explain, read_claims, together

EXAMPLES = """examples:
  upsr verify downloads/Set14_results --gt datasets/Set14/HR --claims claims.yml
  upsr verify downloads/Set14_results --gt datasets/Set14/HR --claims claims.yml --filename-tmpl '{}_SwinIR'

claims.yml has the printed numbers with all their digits, which say how exact they are:
  psnr: 28.42
  ssim: 0.7822

Known are psnr, ssim, lpips and every metric of pyiqa. Backbones of LPIPS are those in the hub folder of torch and those given:
--backbone alex=experiments/pretrained_models/alexnet-owt-7be5be79.pth (upsr weights fetch LPIPS-AlexNet). None is downloaded.

Both folders have the same images: of a part of a set no number is explained.

Exit codes: 0 every number is explained; 1 one is not; 2 a mistake in arguments or files."""

_SHOWN = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``upsr verify``."""
    parser.add_argument("folder", type=path, help="restored images")
    parser.add_argument("--gt", type=path, required=True, metavar="FOLDER", help="ground truths")
    parser.add_argument("--claims", type=path, required=True, metavar="FILE.yml", help="numbers by metric")
    parser.add_argument("--scale", type=int, default=4, metavar="N", help="of the restoration, for borders (4)")
    about = "name of a restored image for the name {} of its ground truth, both without suffix ({})"
    parser.add_argument("--filename-tmpl", default="{}", metavar="TEXT", help=about)
    about = "weights of a backbone of LPIPS: alex, vgg or squeeze"
    parser.add_argument("--backbone", action="append", default=[], metavar="NAME=FILE", help=about)
    parser.add_argument("--json", type=path, metavar="FILE", help="write all values too")


def main(given: argparse.Namespace) -> int:
    """Run it."""
    if given.scale < 1:
        raise UpsrError(f"--scale: {given.scale}; give a whole number from 1")
    backbones = {}
    for text in given.backbone:
        name, _, file = text.partition("=")
        if name not in ("alex", "vgg", "squeeze") or not file:
            raise UpsrError(f"--backbone: {text}; give alex=FILE, vgg=FILE or squeeze=FILE")
        backbones[name] = file
    claims = read_claims(given.claims)
    pairs = Pairs(given.folder, given.gt, given.scale, given.filename_tmpl)
    with tqdm(total=len(pairs), unit="image", disable=None) as bar:
        findings = explain(pairs, claims, given.scale, backbones, bar.update)
    console = Console(highlight=False, soft_wrap=True)
    for finding in findings:
        _print(console, finding)
    for way, count in together(findings):
        console.print(f"\nTogether: {_words(way)} explains {count} of the numbers.")
    if given.json is not None:
        _write(given.json, findings)
    return 0 if all(finding.holding for finding in findings) else 1


def _print(console: Console, finding: Finding) -> None:
    holding = finding.holding
    claim = f"{finding.claim.metric} {finding.claim.text}"
    if holding:
        console.print(f"\n{claim}: measured as")
        shown = holding
    elif not finding.ways:
        console.print(f"\n{claim}: nothing could be measured: an image is too small for it, or equals its ground truth")
        shown = []
    else:
        console.print(f"\n{claim}: no known way gives it; the nearest of {len(finding.ways)} are")
        shown = finding.ways[:_SHOWN]
    for way, value in shown:
        console.print(f"  {value:.6g}  {_words(way)}", markup=False)
    for reason in finding.missing:
        console.print(f"  not tried: {reason}", markup=False)


def _words(way: tuple[tuple[str, str], ...]) -> str:
    return "; ".join(f"{name}: {value}" for name, value in way)


def _write(target: Path, findings: list[Finding]) -> None:
    content = [
        {
            "metric": finding.claim.metric,
            "claimed": finding.claim.text,
            "ways": [{**dict(way), "value": value, "holds": finding.claim.holds(value)} for way, value in finding.ways],
        }
        for finding in findings
    ]
    with atomic_write(target) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
