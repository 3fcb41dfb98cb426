"""The run of test.py: every validation set restored and measured."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from upsr.atomic import atomic_write, writable_folder
from upsr.config.schema import CommonOptions
from upsr.engine.distributed import Runtime
from upsr.engine.evaluate import Evaluation, build_metrics, build_validation_set, evaluate, save_image
from upsr.engine.fitting import refuse_misfits
from upsr.engine.logging import setup_logging
from upsr.engine.setup import configure_backends
from upsr.errors import UpsrError
from upsr.methods import build_method
from upsr.metrics import Metric
from upsr.provenance import file_digest, machine, versions
from upsr.restoring import ModelRestorer
from upsr.weights import weight_files

logger = logging.getLogger(__name__)


def test(opt: CommonOptions, run: Runtime) -> list[Evaluation]:
    """Restore and measure the validation sets of an option file.

    Images go to ``results/NAME/visualization/SET/``, metrics to ``results/NAME/SET/``. A folder of an earlier run is kept
    under another name.
    """
    folder = Path(opt.path.results_root) / opt.name
    if run.is_main and writable_folder(folder.parent) and folder.exists():
        folder.rename(folder.with_name(f"{folder.name}_archived_{time.strftime('%Y%m%d_%H%M%S')}"))
    run.barrier()
    setup_logging(run, folder / "test.log")
    configure_backends(run.device)
    method = build_method(opt).to(run.device).eval()
    metrics, missing = build_metrics(opt, run.device)
    restorer = ModelRestorer(method, opt.manual_seed, opt.val.tile, opt.val.noise)
    sets = []
    for phase, options in opt.validation_sets.items():
        data = build_validation_set(phase, options, opt.val.max_images)
        refuse_misfits(phase, data, method.facts)
        sets.append(data)

    origin = _origin(opt, run, metrics, missing)
    results = []
    for data in sets:
        pictures = folder / "visualization" / data.name
        result = evaluate(
            restorer,
            data,
            metrics,
            run,
            on_image=lambda key, image, to=pictures: (
                save_image(to, key, image, opt.val.suffix)  # type: ignore[misc]
                if opt.val.save_img
                else None
            ),
        )
        logger.info("%s", result)
        if run.is_main:
            result.write(folder / data.name, origin)
        results.append(result)
    if run.is_main:
        with atomic_write(folder / "options.json") as path:
            path.write_text(json.dumps(opt.model_dump(mode="json"), indent=2) + "\n", encoding="utf-8")
        logger.info("results in %s", folder)
    unreadable = [message for result in results for message in (*result.unreadable, *result.failed)]
    if unreadable:
        raise UpsrError(f"{len(unreadable)} image(s) are missing in the results: {'; '.join(unreadable)}")
    return results


def _origin(
    opt: CommonOptions, run: Runtime, metrics: Mapping[str, Metric], missing: Mapping[str, str]
) -> dict[str, Any]:
    """What a reader needs to know of the numbers."""
    return {
        "metrics": {name: metric.version for name, metric in metrics.items()},
        "missing_metrics": dict(missing),
        "weights_sha256": {key: file_digest(path) for key, path in weight_files(opt).items()},
        "seed": opt.manual_seed,
        "options": "options.json, in the folder above",
        "versions": versions(),
        "machine": machine(run.device),
    }
