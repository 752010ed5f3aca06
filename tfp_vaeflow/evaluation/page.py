"""An evaluation to read: as a table of text, and as a page of Markdown."""

from collections.abc import Iterator
from typing import NamedTuple

_PROBES = {
    "logistic": "logistic regression",
    "linear_svm": "linear SVM",
    "rbf_svm": "RBF SVM",
    "knn": "5 nearest neighbours",
}
# Of evaluations that do not say more.
_NO_LABELS = "The data has no labels of two or more kinds."
_CLASSES = 30  # at most in the table; evaluation.json has all


def _note(result: dict, part: str, otherwise: str = _NO_LABELS) -> str:
    """Why a part was not measured."""
    return result.get("notes", {}).get(part, otherwise)


class Section(NamedTuple):
    """A part of an evaluation.

    Attributes:
      title: of the part.
      rows: what was measured, and the figure.
      note: what has to be known to read them; may be empty.
    """

    title: str
    rows: list[tuple[str, str]]
    note: str = ""


def _with_error(value: float, error: float | None, digits: int = 4) -> str:
    if error is None:
        return f"{value:.{digits}f}"
    return f"{value:.{digits}f} ± {error:.{digits}f}"


def _likelihood(result: dict) -> Section:
    rows = [
        ("bits/dim", _with_error(result["bits_per_dim"], result["standard_error"])),
        *((f"  {name}", f"{value:.4f}") for name, value in result["terms"].items()),
        (
            "bits/dim, importance-weighted",
            _with_error(result["iw_bits_per_dim"], result["iw_standard_error"]),
        ),
        ("KL, nats", f"{result['kl_nats']:.2f}"),
        ("decoded exactly", f"{result['exactly_decoded']} of {result['num_images']}"),
        ("parameters", f"{result['parameters']:,}"),
    ]
    head = (
        f"{result['split']} split: {result['num_images']} images, "
        f"{result['num_samples']} samples of (z, u) each"
    )
    return Section(head, rows)


def _usage(result: dict) -> Section:
    usage = result["usage"]
    if usage is None:
        return Section("Use of z", [], "This model infers no z from images.")
    found = usage["mutual_information"]
    information = _with_error(found["nats"], found["standard_error"], 2)
    limit = f"at most log N = {found['ceiling']:.2f}"
    if found["saturated"]:
        limit += "; saturated, a lower bound only"
    active = f"{usage['active_units']} of {usage['dimensions']}"
    moments = usage["moments"]
    shift = max(
        abs(a - p) for a, p in zip(moments["aggregate_mean"], moments["prior_mean"])
    )
    ratios = [
        a / p for a, p in zip(moments["aggregate_stddev"], moments["prior_stddev"])
    ]
    rows = [
        ("mutual information of x and z, nats", f"{information} ({limit})"),
        ("active units", active),
        (
            "KL to the aggregate's Gaussian, nats",
            f"{sum(usage['kl_by_dimension']):.2f}",
        ),
        ("largest shift of the aggregate's mean from the prior's", f"{shift:.3f}"),
        (
            "its standard deviation over the prior's",
            f"{min(ratios):.3f} to {max(ratios):.3f}",
        ),
    ]
    for name, title in (
        ("shuffled", "-log p(x|z) with another's z, nats more"),
        ("prior", "  with z of the prior"),
        ("zeros", "  with z = 0"),
    ):
        rows.append((title, f"{result[f'{name}_z_gap_nats']:.2f}"))
    return Section("Use of z", rows)


def _probes(result: dict) -> Section:
    title = "Probes: test accuracy of classifiers on z, v and pixels"
    if result["probes"] is None:
        return Section(title, [], _note(result, "probes"))
    rows = [
        (
            f"{_PROBES[kind]} on {name}",
            f"{found['mean']:.1%} ± {found['stddev']:.1%}",
        )
        for kind, by_name in result["probes"].items()
        for name, found in by_name.items()
    ]
    return Section(title, rows)


def _samples(result: dict) -> Iterator[Section]:
    samples = result["samples"]
    if samples is not None:
        rows = [
            ("mean top probability", f"{samples['mean_top_probability']:.3f}"),
            ("rarest class", f"{samples['min_class_share']:.1%}"),
        ]
        if "label_agreement" in samples:
            rows.append(("of the class asked for", f"{samples['label_agreement']:.1%}"))
        title = (
            f"{samples['num_images']} samples at temperature {samples['temperature']}, "
            "as logistic regression on real images sees them"
        )
        yield Section(title, rows)
    yield _fidelity(result)


def _fidelity(result: dict) -> Section:
    found = result["fidelity"]
    if found is None:
        note = _note(result, "fidelity")
        return Section("Distance of samples from real images", [], note)

    def shown(row):
        kid = f"KID {row['kid']:.4f} ± {row['kid_stddev']:.4f}"
        return f"{kid}, FID {row['fid']:.2f}" if found["measure"] == "fid" else kid

    rows = [
        (f"temperature {row['temperature']:g}", shown(row))
        for row in found["by_temperature"]
    ]
    rows.append(("as many training images", shown(found["floor"])))
    title = (
        f"Distance of {found['num_samples']} samples from {found['num_images']} real "
        "images"
    )
    return Section(title, rows, f"Features: {found['network']}.")


def _decoupling(result: dict) -> Section:
    found = result["decoupling"]
    title = "Decoupling: pictures of z of a and v of b"
    if found is None:
        return Section(title, [], _note(result, "decoupling"))
    rows, note = [("pairs (a, b)", str(found["num_pairs"]))], ""

    def shares(name, part):
        text = f"a's {part['of_a']:.1%}, b's {part['of_b']:.1%}"
        rows.append((name, f"{text}, score {part['score']:+.3f}"))

    if found["classifier"] is None:
        note = _note(result, "probes")
    else:
        accuracy = found["classifier"]["accuracy"]
        shares(f"class, by a classifier ({accuracy:.1%} right)", found["classifier"])
        if found["encoder"] is not None:
            accuracy = found["encoder"]["accuracy"]
            shares(f"class, by the encoder ({accuracy:.1%} right)", found["encoder"])
        shares("  of a flow without z (Glow): the picture is b", found["without_z"])
        chance = f"a's {found['chance']:.1%}, score 0"
        rows.append(("  by chance", chance))
    if found["consistency"] is not None:
        same = found["consistency"]
        rows += [
            (
                "cosine of its z with z of a / of b / by chance",
                f"{same['cosine_to_a']:.3f} / {same['cosine_to_b']:.3f} / "
                f"{same['cosine_by_chance']:.3f}",
            ),
            (
                f"rank of a among {same['num_candidates']} by that, median / by chance",
                f"{same['median_rank']:g} / {same['median_rank_by_chance']:g}",
            ),
            ("  a is the first", f"{same['top_1']:.1%}"),
        ]
    return Section(title, rows, note)


def _by_class(result: dict) -> Iterator[Section]:
    found = result.get("by_class") or []
    rows, note = [], ""
    for row in sorted(found, key=lambda row: row["in_training"])[:_CLASSES]:
        images = (
            "one image" if row["num_images"] == 1 else f"{row['num_images']} images"
        )
        text = f"{row['bits_per_dim']:.3f} bits/dim, {images}"
        if row["likelihood_auc"] is not None:
            text += (
                f", ROC AUC {row['likelihood_auc']:.3f} by likelihood, "
                f"{row['typicality_auc']:.3f} by typicality"
            )
        name = row["class"] if row["in_training"] else f"{row['class']} (new)"
        rows.append((name, text))
    if len(found) > _CLASSES:
        note = f"And {len(found) - _CLASSES} more classes in evaluation.json. "
    if not all(row["in_training"] for row in found):
        note += "New classes, which training lacks, are told from the images of others."
    if len(found) > 1 or note:
        yield Section("By class", rows, note.strip())


def _novelty(result: dict) -> Iterator[Section]:
    found = result["novelty"]
    if found is not None:
        own, other = found["num_images"], found["num_other_images"]
        rows = [
            ("ROC AUC by likelihood", f"{found['likelihood_auc']:.3f}"),
            ("ROC AUC by typicality", f"{found['typicality_auc']:.3f}"),
            (
                "bits/dim of training / own / other images",
                f"{found['train_bits_per_dim']:.3f} / {found['bits_per_dim']:.3f} / "
                f"{found['other_bits_per_dim']:.3f}",
            ),
        ]
        # Evaluations of before have no figures by class.
        classes, note = found.get("by_class") or [], ""
        rows += [
            (
                f"  {row['class']}, {row['num_images']} images",
                f"ROC AUC {row['likelihood_auc']:.3f} by likelihood, "
                f"{row['typicality_auc']:.3f} by typicality",
            )
            for row in classes[:_CLASSES]
        ]
        if len(classes) > _CLASSES:
            note = f"And {len(classes) - _CLASSES} more classes in evaluation.json."
        title = f"Telling {other} other images from {own} own ones"
        yield Section(title, rows, note)


def folder(result: dict) -> str:
    """Where `evaluate` keeps an evaluation, below the model directory.

    Evaluations of other splits and steps have other folders.
    """
    return f"evaluation/{result['split']}-step-{result['step']}"


def sections(result: dict) -> list[Section]:
    """The parts of an evaluation (see `report.evaluate`), in the order to read them."""
    return [
        _likelihood(result),
        _usage(result),
        _probes(result),
        *_samples(result),
        _decoupling(result),
        *_by_class(result),
        *_novelty(result),
    ]


def table(result: dict) -> str:
    """The evaluation as lines of text, one figure each."""
    parts = sections(result)
    width = max(len(name) for part in parts for name, _ in part.rows)
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
    """Text as it may stand in a table of Markdown."""
    return text.strip().replace("|", "&#124;")
