"""metrics.jsonl: one JSON object per line, with `step`, `split` and named values."""

import json
import os

from tfp_vaeflow.common import files

FILE_NAME = "metrics.jsonl"


def read(model_dir: str | os.PathLike) -> list[dict]:
    """The records of a run, in order; none if it has no such file.

    Lines that are no records are skipped: the last line of a killed run may be cut.
    """
    path = os.path.join(model_dir, FILE_NAME)
    if not files.exists(path):
        return []
    records = []
    for line in files.read_bytes(path).decode("utf-8", "replace").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and {"step", "split"} <= set(record):
            records.append(record)
    return records
