"""metrics.jsonl: one JSON object a line, `step` and `split` and named values."""

import json
from pathlib import Path

FILE_NAME = "metrics.jsonl"


def read(model_dir: str | Path) -> list[dict]:
    """The records of a run, in order; none if it has no such file.

    What is no record is passed over: the last line of a run that was killed may be cut.
    """
    path = Path(model_dir) / FILE_NAME
    if not path.is_file():
        return []
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and {"step", "split"} <= set(record):
            records.append(record)
    return records
