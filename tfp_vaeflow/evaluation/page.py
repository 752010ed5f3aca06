"""Shows an evaluation as a table of text, and as a page of Markdown."""

from tfp_vaeflow.evaluation.measure import Section
from tfp_vaeflow.evaluation.measures import MEASURES


def folder(split: str, step: int) -> str:
    """Where `evaluate` keeps an evaluation, below the model directory.

    Each split and step has its own folder.
    """
    return f"evaluation/{split}-step-{step}"


def sections(result: dict) -> list[Section]:
    """The parts of an evaluation (see `report.evaluate`), in the order to read them.

    An evaluation of an earlier version may lack the keys of newer measures: these were
    not measured then.
    """
    keys = [key for measure in MEASURES for key in measure.result.__annotations__]
    result = {**dict.fromkeys(keys), **result}
    taken = result.get("measures")
    return [
        section
        for measure in MEASURES
        if taken is None or measure.name in taken
        for section in measure.sections(result)
    ]


def table(result: dict) -> str:
    """The evaluation as lines of text, one figure each."""
    parts = sections(result)
    width = max((len(name) for part in parts for name, _ in part.rows), default=0)
    lines = []
    for part in parts:
        lines += ["", part.title]
        lines += [f"  {name:<{width}}  {value}" for name, value in part.rows]
        lines += [f"  {part.note}"] if part.note else []
    return "\n".join(lines[1:])


def markdown(
    result: dict, title: str, figures: dict[str, str], introduction: str = ""
) -> str:
    """The evaluation as a page.

    Args:
      result: what `report.evaluate` returned.
      title: heads the page.
      figures: captions of pictures, by their path from the page.
      introduction: text that comes before the figures; may be empty.
    """
    lines = [f"# {title}", "", *([introduction, ""] if introduction else [])]
    for part in sections(result):
        lines += [f"## {part.title}", ""]
        if part.rows:
            lines += ["| figure | measured |", "|---|---|"]
            lines += [
                f"| {_cell(name)} | {_cell(value)} |" for name, value in part.rows
            ]
            lines.append("")
        if part.note:
            lines += [part.note, ""]
    for path, caption in figures.items():
        lines += [f"![{caption}]({path})", "", f"*{caption}.*", ""]
    return "\n".join(lines)


def _cell(text: str) -> str:
    """Text that is safe in a table of Markdown."""
    return text.strip().replace("|", "&#124;")
