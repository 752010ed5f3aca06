"""Whether z and v hold different content: whose class a switched picture shows."""

from typing import TypedDict

import numpy as np

from tfp_vaeflow.config import EvaluationConfig
from tfp_vaeflow.data import Split
from tfp_vaeflow.evaluation import figures
from tfp_vaeflow.evaluation.classifier import (
    ImageClassifier,
    classifier_of,
    named_classifier,
)
from tfp_vaeflow.evaluation.latents import posteriors, posteriors_of
from tfp_vaeflow.evaluation.measure import (
    Drawing,
    Measure,
    NotMeasuredError,
    Section,
    Subject,
    check_count,
    random_subset,
    reason,
)
from tfp_vaeflow.evaluation.probes import logistic_probe
from tfp_vaeflow.model import VAEFlow

_MATRIX_SIDE = 8


def _pairs(split: Split, num_pairs: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices a and b of images to switch, of different classes if there are labels."""
    rng = np.random.default_rng(seed)
    a = rng.permutation(split.num_images)[:num_pairs]
    b = rng.integers(split.num_images - 1, size=len(a))
    b += b >= a  # never the image itself
    if split.labels is not None:
        for index, one in enumerate(a):
            others = np.flatnonzero(split.labels != split.labels[one])
            b[index] = rng.choice(others) if len(others) else b[index]
    return a, b


def _cosine(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1)
    return (one * other).sum(axis=-1) / np.maximum(norms, 1e-12)


def _shares(found, of_a, of_b) -> dict[str, float]:
    to_a, to_b = float((found == of_a).mean()), float((found == of_b).mean())
    return {"of_a": to_a, "of_b": to_b, "score": to_a - to_b}


def _consistency(z, again, a, b) -> dict[str, float]:
    """How well `again`, z of the switched pictures, agrees with z of a."""
    center = z.mean(axis=0)
    z, again = z - center, again - center
    unit = z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12)
    similarity = again @ unit.T
    own = similarity[np.arange(len(a)), a][:, np.newaxis]
    # Ties count half, so that identical codes rank as by chance.
    rank = (
        1 + (similarity > own).sum(axis=1) + ((similarity == own).sum(axis=1) - 1) / 2
    )
    return {
        "cosine_to_a": float(_cosine(again, z[a]).mean()),
        "cosine_to_b": float(_cosine(again, z[b]).mean()),
        "cosine_by_chance": float(_cosine(again, z[np.roll(a, 1)]).mean()),
        "median_rank": float(np.median(rank)),
        "top_1": float((rank == 1).mean()),
        "num_candidates": len(z),
        "median_rank_by_chance": (len(z) + 1) / 2,
    }


def decoupling(
    model: VAEFlow,
    train: Split,
    split: Split,
    classifier: ImageClassifier | None,
    z: np.ndarray | None,
    config: EvaluationConfig,
) -> dict:
    """The decoupling score: whose class a switched picture shows.

    Images a and b of different classes; the picture is `decode(z_a, v_b)`.

        score = P(picture is of a's class) - P(picture is of b's class)

    There are two scores: one by a classifier of real images, and one by the encoder
    (logistic regression on z, fit on real images). 1: the class lies in z alone; -1: in
    v alone. A flow without z has nothing to switch: its picture is b, so its score is
    about minus the classifier's accuracy. That is the baseline, measured on the same
    pairs. It is also the score of a model without z.

    Consistency compares z_a with z of the picture when it is encoded again. It has
    their cosine (after subtraction of the split's mean z), and the rank of z_a among
    the z of all images of the split, the most similar first.

    Args:
      model: a trained model; not class-conditional, as z would be set by the label.
      train: labelled images that the encoder's classifier is fit on.
      split: images to switch, two or more.
      classifier: of real images; None where there are no labels.
      z: posterior means of the split's images, `[N, D]`; None without z.
      config: `switch_pairs`, `probe_images` (training images at most), sizes, seed.

    Returns:
      `num_pairs`; `classifier` (with its `name`) and `encoder` (each `of_a`, `of_b`,
      `score`, and `accuracy` on the real images of the split), `without_z` (the
      baseline) and `chance` (`of_a` of a guess, whose score is 0), all None without
      labels; `consistency`, None without z.
    """
    batch_size = config.batch_size
    a, b = _pairs(split, config.switch_pairs, config.seed)
    result = dict.fromkeys(
        ("classifier", "encoder", "without_z", "chance", "consistency")
    )
    result["num_pairs"] = len(a)
    of_pictures, of_images, again = [], [], []
    for images in split.subset(b).batches(batch_size):
        z_a, v = model.encode(images, batch_size=batch_size)
        if model.encoder is not None:
            done = batch_size * len(again)
            z_a = z[a[done : done + len(images)]]
        pictures = model.decode(z_a, v, batch_size).numpy()
        if model.encoder is not None:
            again.append(model.posterior(pictures, batch_size)[0])
        if classifier is not None:
            of_pictures.append(classifier.labels(pictures))
            of_images.append(classifier.labels(images))
    if model.encoder is not None:
        again = np.concatenate(again).astype(np.float64)
        result["consistency"] = _consistency(z, again, a, b)
    if classifier is None:
        return result
    of_a, of_b = split.labels[a], split.labels[b]
    result["classifier"] = {
        **_shares(np.concatenate(of_pictures), of_a, of_b),
        "name": classifier.name,
        "accuracy": classifier.accuracy(split),
    }
    result["without_z"] = _shares(np.concatenate(of_images), of_a, of_b)
    result["chance"] = float(
        np.mean([(split.labels == label).mean() for label in of_a])
    )
    if model.encoder is not None:
        train = random_subset(train, config.probe_images, seed=0)
        codes = posteriors(model, train, batch_size).mean
        probe = logistic_probe(codes, train.labels)
        result["encoder"] = {
            **_shares(probe.predict(again), of_a, of_b),
            "accuracy": float(probe.score(z, split.labels)),
        }
    return result


class Decoupling(TypedDict):
    """`decoupling`: see `decoupling`."""

    decoupling: dict | None


def decoupling_of(subject: Subject) -> dict:
    """`decoupling` of a subject.

    Raises:
      NotMeasuredError: if there is nothing to switch.
    """
    split = subject.compared
    if subject.model.config.is_class_conditional:
        raise NotMeasuredError(
            "z is a function of the label: there is nothing to infer or to switch."
        )
    check_count(split.num_images, 2)
    classifier, z = None, None
    if subject.chosen is not None:
        classifier = subject.once(classifier_of)
    if subject.model.encoder is not None:
        z = subject.once(posteriors_of).mean
        z = z if subject.chosen is None else z[subject.chosen]
    subject.say("switches")
    return decoupling(
        subject.model, subject.train, split, classifier, z, subject.config
    )


def _run(subject: Subject) -> Decoupling:
    return {"decoupling": subject.once(decoupling_of)}


def _sections(result: dict) -> list[Section]:
    found = result["decoupling"]
    title = "Decoupling: pictures with the z of an image a and the v of an image b"
    if found is None:
        return [Section(title, [], reason(result, "decoupling"))]
    rows, note = [("pairs (a, b)", str(found["num_pairs"]))], ""

    def shares(name, part):
        text = f"a's {part['of_a']:.1%}, b's {part['of_b']:.1%}"
        rows.append((name, f"{text}, score {part['score']:+.3f}"))

    if found["classifier"] is None:
        note = reason(result, "probes")
    else:
        judge = found["classifier"]
        name = judge.get("name", "a classifier")  # earlier versions had but one
        shares(f"class, by {name} ({judge['accuracy']:.1%} right)", judge)
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
                "cosine of the picture's z with z of a / of b / by chance",
                f"{same['cosine_to_a']:.3f} / {same['cosine_to_b']:.3f} / "
                f"{same['cosine_by_chance']:.3f}",
            ),
            (
                f"median rank of a among {same['num_candidates']} by cosine / "
                "by chance",
                f"{same['median_rank']:g} / {same['median_rank_by_chance']:g}",
            ),
            ("  a is the first", f"{same['top_1']:.1%}"),
        ]
    return [Section(title, rows, note)]


def _figures(drawing: Drawing) -> dict[str, str]:
    if not drawing.shows_z:
        return {}
    shown = drawing.split.first(2 * _MATRIX_SIDE)
    matrix = figures.switch_matrix(drawing.model, shown, drawing.batch_size)
    figures.write_png(drawing.path("switch_matrix.png"), matrix)
    caption = "Rows: z of the image at the left; columns: v of the image at the top"
    return {"switch_matrix.png": caption}


MEASURE = Measure(
    "decoupling",
    Decoupling,
    _run,
    _sections,
    _figures,
    check=lambda subject: subject.once(named_classifier),
)
