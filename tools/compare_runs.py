"""Compares runs: python tools/compare_runs.py RUN... [--output=DIR]

Prints one table with one line per run, from metrics.jsonl and evaluation.json (of the
last call of `evaluate`). Writes the table, and all learning curves in one plot, to DIR
(comparison.md, comparison.png). A dash stands for a figure that a run does not have.
TensorFlow is not needed.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tfp_vaeflow.common import files, metrics_file
from tfp_vaeflow.evaluation import plots

COLUMNS = [
    "run",
    "step",
    "split",
    "bits/dim",
    "IW bits/dim",
    "KL, nats",
    "probe z",
    "probe v",
    "decoupling",
    "images/s",
    "parameters",
    "peak MiB",
]


def figures(run: Path) -> dict[str, str]:
    """The figures of a run, as text, by column."""
    records = metrics_file.read(run)
    path = run / "evaluation.json"
    try:
        result = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        probe = result.get("probe") or {}
        judged = (result.get("decoupling") or {}).get("classifier") or {}
    except (ValueError, AttributeError) as error:
        sys.exit(f"error: {path} is not what `evaluate` writes: {error}")
    if not records and not result:
        sys.exit(
            f"error: {run} has neither {metrics_file.FILE_NAME} nor {path.name}; "
            "expected a model directory"
        )
    train = [record for record in records if record["split"] == "train"]
    steps = [result.get("step"), *(record["step"] for record in records)]
    row = {"run": run.name, "step": next(str(s) for s in steps[::-1] if s is not None)}

    def put(column, value, text):
        row[column] = "-" if value is None else text.format(value)

    def latest(name, choose):
        values = [record[name] for record in train if name in record]
        return choose(values) if values else None

    put("split", result.get("split"), "{}")
    put("bits/dim", result.get("bits_per_dim"), "{:.4f}")
    put("IW bits/dim", result.get("iw_bits_per_dim"), "{:.4f}")
    put("KL, nats", result.get("kl_nats"), "{:.2f}")
    put("probe z", probe.get("z"), "{:.1%}")
    put("probe v", probe.get("v"), "{:.1%}")
    put("decoupling", judged.get("score"), "{:+.3f}")
    put("images/s", latest("images_per_second", statistics.median), "{:.0f}")
    put("parameters", result.get("parameters"), "{:,}")
    put("peak MiB", latest("peak_memory_mib", max), "{:.0f}")
    return row


def learning_curves(runs: list[Path]) -> dict[str, tuple[list, list]]:
    """bits/dim by step, training and (where there is one) validation, by run."""
    lines = {}
    for run in runs:
        for split, shown in (("train", "training"), ("eval", "validation")):
            found = [
                record
                for record in metrics_file.read(run)
                if record["split"] == split and "bits_per_dim/total" in record
            ]
            if found:
                steps = [record["step"] for record in found]
                values = [record["bits_per_dim/total"] for record in found]
                lines[f"{shown} {run.name}"] = steps, values
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=files.user_path, metavar="RUN")
    parser.add_argument("--output", type=files.user_path, default=Path("comparison"))
    flag = parser.parse_args()
    rows = [figures(run.resolve()) for run in flag.runs]
    widths = [
        max(len(row[name]) for row in [dict(zip(COLUMNS, COLUMNS)), *rows])
        for name in COLUMNS
    ]
    for row in [dict(zip(COLUMNS, COLUMNS)), *rows]:
        print("  ".join(row[name].rjust(width) for name, width in zip(COLUMNS, widths)))
    lines = [f"| {' | '.join(COLUMNS)} |", "|" + "---|" * len(COLUMNS)]
    lines += [f"| {' | '.join(row[name] for name in COLUMNS)} |" for row in rows]
    curves = learning_curves([run.resolve() for run in flag.runs])
    if curves:
        plots.curves(flag.output / "comparison.png", curves, "step", "bits/dim")
        lines += ["", "![bits/dim by step](comparison.png)"]
    files.write_text(flag.output / "comparison.md", "\n".join(lines) + "\n")
    print(f"written to {flag.output}")


if __name__ == "__main__":
    main()
