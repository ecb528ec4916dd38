"""Checks data sets and cleans them: tasks of Ray examine the images, and this process reports and writes."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from contextlib import suppress

import numpy as np

from stylegan_ray.cluster.prepare.write import (
    closing_message,
    has_labels,
    place_of,
    plan_task,
    pool,
    refuse_dest,
    train_command,
    write_task,
)
from stylegan_ray.config import ConfigError, RunConfig
from stylegan_ray.credentials import clean, without_credentials
from stylegan_ray.data import formats, openmoji
from stylegan_ray.data import open as open_data
from stylegan_ray.data.decode_policy import check_bits, choose_bits
from stylegan_ray.data.doctor.doubts import KINDS, find_doubts
from stylegan_ray.data.doctor.examiner import Examiner
from stylegan_ray.data.doctor.findings import Findings
from stylegan_ray.data.doctor.fix import Fix
from stylegan_ray.data.doctor.sheet import Thumbnailer, choose_tiles, draw_sheet
from stylegan_ray.data.doctor.summary import Doubts, format_rows, recommend_keys, report, summarize
from stylegan_ray.data.errors import DataError
from stylegan_ray.data.files import Files
from stylegan_ray.data.formats.protocol import Inspector
from stylegan_ray.data.index import Index
from stylegan_ray.data.options import PrepareOptions, to_option_names
from stylegan_ray.images.outputs import check_png
from stylegan_ray.outputs import check_file
from stylegan_ray.report.console import ProgressLine
from stylegan_ray.storage import extend_address, write_file
from stylegan_ray.table import format_table

IMAGES_PER_CHECK = 128
"""Images that one task reads."""
CHANGES_ENDING = ".changes.json"
HEADING_WIDTH = max(len(kind.heading) for kind in KINDS)


def refuse_options(options: PrepareOptions) -> None:
    """Raises ConfigError for options of the doctor that do not go together, or reports that cannot be written."""
    if options.check and options.fix:
        raise ConfigError("--check writes no data set and --fix does; give one of them")
    if options.letterbox and options.fix:
        raise ConfigError("--letterbox does not go with --fix; run --fix first, and on its DEST --letterbox")
    if options.keep and not options.fix:
        kinds = " ".join(options.keep)
        raise ConfigError(f"--keep {kinds} says what --fix leaves alone; give --fix too, or leave --keep out")
    for name, file in (("--json", options.json), ("--sheet", options.sheet)):
        if file is None:
            continue
        if not (options.check or options.fix):
            raise ConfigError(f"{name} {file} is a report of --check or --fix; give one of them too")
        _refuse_place(name, file, options)
        check_file(file, name, makes_folder=False)
        if name == "--json":
            _refuse_other_file(file)
        if name == "--sheet":
            check_png(file, name)
    if options.fix and options.dest is not None:
        check_file(extend_address(options.dest, CHANGES_ENDING), "the list of changes")


def _refuse_other_file(file: str) -> None:
    """Raises ConfigError where --json would replace a file that holds no JSON, such as a data set."""
    with suppress(OSError):
        with open(os.path.expanduser(file), "rb") as opened:
            begin = opened.read(16).lstrip()
        if begin and not begin.startswith(b"{"):
            raise ConfigError(f"--json {file} exists and is not a report of this command; give another file")


def _refuse_place(name: str, file: str, options: PrepareOptions) -> None:
    """Raises ConfigError for a report that would replace or join files of SOURCE or DEST, or replace another report."""
    taken = {} if options.source == openmoji.NAME else {"SOURCE": options.source}
    if options.dest is not None:
        taken |= {"DEST": options.dest, "the list of changes": extend_address(options.dest, CHANGES_ENDING)}
    if name == "--sheet" and options.json is not None:
        taken["--json"] = options.json
    for what, address in taken.items():
        if f"{place_of(file)}/".startswith(f"{place_of(address)}/"):
            raise ConfigError(f"{name} {file} would be written over or into {what} {address}; give a file elsewhere")


def check(options: PrepareOptions) -> int:
    """Reads every image and prints what is found; returns 1 when some cannot be read."""
    if options.dest is not None:
        print(f"DEST {options.dest} is not written: --check only reads", file=sys.stderr)
    cfg = options.config()
    path = open_data.data_path(cfg.data)
    with ProgressLine() as progress:
        try:
            files, index = open_unchecked(cfg, progress)
        except DataError as error:
            if isinstance(error.__cause__, (FileNotFoundError, NotADirectoryError)):
                raise
            print(f"{'Unreadable':{HEADING_WIDTH}s}  {to_option_names(without_credentials(str(error)))}")
            return 1
        findings, _ = examine_and_report(files, index, options, path, progress)
    if findings.bad and not len(findings.good):
        return 1
    check_bits(cfg.data, findings.updated_index, path)
    keys = recommend_keys(findings.updated_index) | options.given_keys()
    if not formats.by_name(index.format).is_trainable:
        print(f"{'Prepare':{HEADING_WIDTH}s}  {open_data.prepare_command(path)}")
    else:
        print(f"{'Train':{HEADING_WIDTH}s}  {train_command(path, keys)}")
    return 1 if findings.bad else 0


def fix(options: PrepareOptions) -> int:
    """Reads every image and writes DEST without what is doubtful; returns the exit status."""
    assert options.dest is not None
    cfg, begin = options.config(), time.monotonic()
    refuse_dest(cfg.data, options)
    path = open_data.data_path(cfg.data)
    with ProgressLine() as progress:
        files, index = open_unchecked(cfg, progress)
        findings, doubts = examine_and_report(files, index, options, path, progress)
        if not len(findings.good):
            raise DataError(f"data.path={path}: no image can be read, so there is nothing to fix")
        plan = Fix.plan(findings, doubts, options.keep)
        data = plan.config(cfg.data).model_copy(update={"cond": has_labels(cfg.data, index)})
        dataset = open_data.apply_config(data, files, findings.updated_index)
        dataset = plan.apply(dataset, inspector_of(files, index, options))
        task = plan_task(dataset, options, index.stamp)
        num_bad = write_task(task, options, progress)
    changes = clean(plan.report(dataset, np.concatenate(task.plans)))
    place = extend_address(options.dest, CHANGES_ENDING)
    write_file(place, json.dumps(changes, indent=1).encode())
    print(policies(plan))
    print(closing_message(task, num_bad, time.monotonic() - begin))
    print(f"  Changes   {len(changes['changes'])} images: {without_credentials(place)}")
    return 0


def open_unchecked(cfg: RunConfig, progress: ProgressLine) -> tuple[Files, Index]:
    """The files at SOURCE and an index made from the headers of the images; raises DataError when there are none."""
    path = open_data.data_path(cfg.data)
    place = openmoji.prepare(cfg.data, progress) if path == openmoji.NAME else path
    files, index = open_data.index_files(place, progress, decode=False, cfg=cfg.data, prepares=True)
    open_data.refuse_empty(files, index, path)
    return files, index


def examine_and_report(
    files: Files, index: Index, options: PrepareOptions, path: str, progress: ProgressLine
) -> tuple[Findings, Doubts]:
    """Examines all images, prints what is found, and writes the reports that are asked for."""
    num = len(index.names)
    plans = [np.arange(i, min(i + IMAGES_PER_CHECK, num)) for i in range(0, num, IMAGES_PER_CHECK)]
    inspector, findings = inspector_of(files, index, options), Findings(index)
    examiner = Examiner(inspector, *choose_bits(options.config().data, index))
    with pool(options, len(plans)) as run:
        for plan, pieces in zip(plans, run(examiner, plans), strict=True):
            findings.add(plan, pieces)
            progress(int(plan[-1]) + 1, num, "reading images")
        doubts = find_doubts(findings)
        print(without_credentials(format_rows(summarize(findings, doubts))))
        if options.json is not None:
            write_file(options.json, json.dumps(clean(report(findings, doubts, path)), indent=1).encode())
        if options.sheet is not None:
            entries = sorted({tile.entry for tiles in choose_tiles(findings, doubts).values() for tile in tiles})
            few = [np.array(entries[i : i + IMAGES_PER_CHECK]) for i in range(0, len(entries), IMAGES_PER_CHECK)]
            thumbnails: Mapping[int, bytes] = {
                int(entry): piece
                for plan, pieces in zip(few, run(Thumbnailer(inspector), few), strict=True)
                for entry, piece in zip(plan, pieces, strict=True)
            }
            write_file(options.sheet, draw_sheet(findings, doubts, thumbnails, without_credentials(path)))
    return findings, doubts


def inspector_of(files: Files, index: Index, options: PrepareOptions) -> Inspector:
    """What reads images as they are stored."""
    return formats.by_name(index.format).inspector(files, index, options.extra_formats)


def policies(plan: Fix) -> str:
    """What was done with the doubtful images, a line for each kind."""
    rows = [(kind.heading, str(len(plan.doubts[kind.name])), kind.policy) for kind in KINDS if plan.doubts[kind.name]]
    return format_table([("doubtful", "images", "done"), *rows]) if rows else "Nothing is doubtful."
