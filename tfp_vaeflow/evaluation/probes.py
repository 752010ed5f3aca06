"""How well simple classifiers find the label from the codes."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TypedDict

import numpy as np
import tensorflow as tf
from sklearn.base import ClassifierMixin
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import SVC, LinearSVC
from sklearn.utils.extmath import randomized_svd

from tfp_vaeflow.data import Split
from tfp_vaeflow.evaluation.likelihood import labelled_batches, labels_for
from tfp_vaeflow.evaluation.measure import (
    Measure,
    Section,
    Subject,
    random_subset,
    reason,
)
from tfp_vaeflow.model import VAEFlow

# Enough for the solvers to converge on standardised features.
_MAX_ITERATIONS = 5000
# Wider pixels and v are reduced to this many principal components, or to one per image
# if there are fewer images: logistic regression on all pixels of ten thousand images
# takes hours.
MAX_WIDTH = 128
# The part of the images that each seed fits on.
_SHARE = 0.8
# Wide rows are processed this many at a time.
_ROWS_AT_A_TIME = 64

CLASSIFIERS = {
    "logistic": lambda: LogisticRegression(max_iter=_MAX_ITERATIONS),
    "linear_svm": lambda: LinearSVC(dual=False, max_iter=_MAX_ITERATIONS),
    "rbf_svm": SVC,
    "knn": KNeighborsClassifier,
}
_NAMES = {
    "logistic": "logistic regression",
    "linear_svm": "linear SVM",
    "rbf_svm": "RBF SVM",
    "knn": "5 nearest neighbours",
}
_NEIGHBOURS = 5


def _classifier(kind: str, labels: np.ndarray) -> ClassifierMixin:
    """A classifier that can be fitted on these labels, however few they are."""
    if len(np.unique(labels)) < 2:
        return DummyClassifier()  # always gives the only class
    if kind == "knn":
        return KNeighborsClassifier(min(_NEIGHBOURS, len(labels)))
    return CLASSIFIERS[kind]()


class Reduction:
    """Standardises rows, and reduces wide ones to their first principal components.

    It makes one float32 copy of wide rows; all else is computed a few rows at a time.

    Args:
      rows: `[N, F]`, of any type.
      chosen: indices of the rows that mean, variance and components are computed from.
      most: number of components. Rows that are no wider stay whole.
    """

    def __init__(self, rows: np.ndarray, chosen: np.ndarray, most: int = MAX_WIDTH):
        self._scaler = StandardScaler()
        for part in _parts(len(chosen)):
            self._scaler.partial_fit(rows[chosen[part]].astype(np.float64))
        self._components = None
        width = rows.shape[1]
        if width > most:
            scaled = np.empty((len(chosen), width), np.float32)
            for part in _parts(len(chosen)):
                scaled[part] = self._scaled(rows[chosen[part]])
            count = min(most, len(chosen))
            _, _, found = randomized_svd(scaled, count, random_state=0)
            self._components = np.ascontiguousarray(found.T)

    def _scaled(self, rows: np.ndarray) -> np.ndarray:
        return self._scaler.transform(rows.astype(np.float64))

    def __call__(
        self, rows: np.ndarray, chosen: np.ndarray | None = None
    ) -> np.ndarray:
        """`[N, F]` -> float64 `[N, F or most]`; only the rows `chosen`, if given."""
        if chosen is None:
            chosen = np.arange(len(rows))
        reduced = []
        for part in _parts(len(chosen)):
            scaled = self._scaled(rows[chosen[part]])
            if self._components is not None:
                scaled = scaled @ self._components
            reduced.append(scaled)
        return np.concatenate(reduced)


def _parts(count: int) -> Iterator[slice]:
    return (slice(i, i + _ROWS_AT_A_TIME) for i in range(0, count, _ROWS_AT_A_TIME))


def logistic_probe(features: np.ndarray, labels: np.ndarray) -> Pipeline:
    """Logistic regression on standardised features `[N, F]`, fitted."""
    reduce = Reduction(features, np.arange(len(features)), features.shape[1])
    classifier = _classifier("logistic", labels).fit(reduce(features), labels)
    return make_pipeline(FunctionTransformer(reduce), classifier)


def representation(
    model: VAEFlow, split: Split, name: str, batch_size: int
) -> np.ndarray:
    """`z`, `v` (float32) or `pixels` (uint8) of a split, flattened to `[N, F]`."""
    rows = None
    for batch in labelled_batches(model, split, batch_size):
        first, count = int(batch.positions[0]), int(tf.reduce_sum(batch.weights))
        images = batch.images[:count]
        if name == "z":
            values, _ = model.posterior(images, batch_size)
        elif name == "v":
            labels = labels_for(model, batch, count)
            _, values = model.encode(images, batch_size=batch_size, labels=labels)
        else:
            values = images
        values = values.numpy().reshape(count, -1)
        if rows is None:
            rows = np.empty((split.num_images, values.shape[1]), values.dtype)
        rows[first : first + count] = values
    return rows


def probes(
    model: VAEFlow,
    train: Split,
    test: Split,
    num_seeds: int,
    max_images: int,
    batch_size: int,
) -> dict[str, dict[str, dict[str, float]]]:
    """Test accuracies of four classifiers on z, v and pixels.

    They are logistic regression, linear SVM, RBF SVM and five nearest neighbours, with
    scikit-learn's defaults. Each seed fits on four fifths of the training images,
    without augmentation. Features are standardised. v and pixels are reduced to 128
    principal components; z stays whole, as its entries are about as large as each
    other. With fewer than five images, all are neighbours.

    Args:
      model: a trained model.
      train, test: labelled splits.
      num_seeds: number of random choices of the four fifths.
      max_images: images of either split at most; drawn at random where there are more.
      batch_size: images at a time.

    Returns:
      By classifier and representation: `mean` and `stddev` over seeds of the accuracy.
    """
    train, test = (random_subset(split, max_images, seed=0) for split in (train, test))
    names = ["v", "pixels"]
    if model.encoder is not None:
        names.insert(0, "z")
    found = {kind: {} for kind in CLASSIFIERS}
    for name in names:
        # Rows of all pixels are large: memory holds those of one split at a time.
        rows = representation(model, train, name, batch_size)
        width = rows.shape[1] if name == "z" else MAX_WIDTH
        fitted = fit_probes(rows, train, num_seeds, CLASSIFIERS, (width,))
        rows = representation(model, test, name, batch_size)
        for (kind, _), scores in score_probes(fitted, rows, test).items():
            found[kind][name] = scores
    return found


# For each seed the reduction of its rows, and classifiers by their kind and the number
# of components that they see.
FittedProbes = list[tuple[Reduction, dict[tuple[str, int], ClassifierMixin]]]


def fit_probes(
    rows: np.ndarray,
    train: Split,
    num_seeds: int,
    kinds: Iterable[str],
    widths: Sequence[int],
) -> FittedProbes:
    """Fits classifiers; each seed takes its own four fifths of the images.

    Args:
      rows: `[N, F]`, of the images.
      train: the images, labelled.
      num_seeds: number of seeds.
      kinds: of `CLASSIFIERS`.
      widths: numbers of principal components; rows that are no wider stay whole.
    """
    found = []
    for seed in range(num_seeds):
        order = np.random.default_rng(seed).permutation(train.num_images)
        chosen = order[: max(1, round(_SHARE * train.num_images))]
        reduce = Reduction(rows, chosen, max(widths))
        reduced, labels = reduce(rows, chosen), train.labels[chosen]
        classifiers = {
            (kind, width): _classifier(kind, labels).fit(reduced[:, :width], labels)
            for kind in kinds
            for width in widths
        }
        found.append((reduce, classifiers))
    return found


def score_probes(
    fitted: FittedProbes, rows: np.ndarray, test: Split
) -> dict[tuple[str, int], dict[str, float]]:
    """`mean` and `stddev` over the seeds of the accuracies on rows of a split."""
    found = {}
    for reduce, classifiers in fitted:
        known = reduce(rows)
        for key, classifier in classifiers.items():
            score = classifier.score(known[:, : key[1]], test.labels)
            found.setdefault(key, []).append(score)
    return {
        key: {"mean": float(np.mean(scores)), "stddev": float(np.std(scores))}
        for key, scores in found.items()
    }


class Probes(TypedDict):
    """`probe`: the mean accuracy of logistic regression by representation; `probes`:
    see `probes`."""

    probe: dict[str, float] | None
    probes: dict[str, dict[str, dict[str, float]]] | None


def _run(subject: Subject) -> Probes:
    subject.needs_labels()
    config = subject.config
    subject.say("probes")
    found = probes(
        subject.model,
        subject.train,
        subject.compared,
        config.probe_seeds,
        config.probe_images,
        config.batch_size,
    )
    means = {name: found["mean"] for name, found in found["logistic"].items()}
    return {"probe": means, "probes": found}


def _sections(result: dict) -> list[Section]:
    title = "Probes: test accuracy of classifiers on z, v and pixels"
    if result["probes"] is None:
        return [Section(title, [], reason(result, "probes"))]
    rows = [
        (
            f"{_NAMES[kind]} on {name}",
            f"{found['mean']:.1%} ± {found['stddev']:.1%}",
        )
        for kind, by_name in result["probes"].items()
        for name, found in by_name.items()
    ]
    return [Section(title, rows)]


MEASURE = Measure("probes", Probes, _run, _sections)
