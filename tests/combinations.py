"""Tiny experiments for all settings with a finite choice, and rows that combine them.

A row is a value for each setting. A setting may need others: without MaCow steps the
size of their kernels says nothing. In a row, only settings whose needs are met count.
"""

import itertools
import random

from tfp_vaeflow import config as cfg
from tfp_vaeflow.common.errors import UserError
from tfp_vaeflow.config.flow import (
    ACTIVATIONS,
    CONV1X1_KINDS,
    COUPLING_NORMS,
    STEPS,
    TRANSFORMS,
)
from tfp_vaeflow.config.model import ENCODER_NORMS, PRIORS

Row = dict[str, object]
Pair = frozenset[tuple[str, object]]

SETTINGS = {
    "step": STEPS,
    "kernel_size": ((2, 3), (1, 5)),
    "transform": TRANSFORMS,
    "prior_transform": TRANSFORMS,
    "conditioning": ("global_linear", "global_attn", "code_map"),
    "principal_components": (0, 3),
    "norm": COUPLING_NORMS,
    "conv1x1": CONV1X1_KINDS,
    "activation": ACTIVATIONS,
    "prior": (*PRIORS, "none"),
    "z_transform": TRANSFORMS,
    "encoder_norm": ENCODER_NORMS,
    "dequantizer": ("uniform", "variational"),
    "channels": (3, 1),
    "sides": ((8, 8), (4, 8)),
    "n_bins": (256, 2, 17, 32),
    "mixed_precision": (False, True),
    "recompute": (False, True),
    "micro_batches": (1, 2),
    "ema_decay": (0.0, 0.9),
    "num_samples": (1, 2),
    "prior_always_learns": (False, True),
}
# What a setting needs of others to have a meaning; the first choice suits all others.
NEEDS = {
    "kernel_size": {"step": ("macow",)},
    "conditioning": {"prior": ("flow", "normal", "categorical")},
    "principal_components": {"prior": ("flow", "normal")},
    "z_transform": {"prior": ("flow",)},
    "prior_always_learns": {"prior": ("flow",)},
    "encoder_norm": {"prior": ("flow", "normal")},
}
PLAIN = {name: values[0] for name, values in SETTINGS.items()}


def experiment(**row) -> cfg.ExperimentConfig:
    """The experiment of a row; settings that are left out have their first value."""
    row = {**PLAIN, **row}
    flow = {
        name: row[name]
        for name in (
            "step",
            "kernel_size",
            "transform",
            "prior_transform",
            "norm",
            "conv1x1",
            "activation",
        )
    }

    def make_flow(num_steps, conditioning, **sizes):
        levels = len(num_steps)
        return cfg.FlowConfig(
            num_steps,
            hidden=[4] * levels,
            conditioning=conditioning,
            map_size=2,
            heads=[1, 2, 1][:levels] if row["conv1x1"] == "split" else (),
            num_groups=[2] * levels if row["norm"] == "group" else (),
            **sizes,
            **flow,
        )

    grouped = row["encoder_norm"] == "group"
    encoder = cfg.EncoderConfig(
        [4], 2, row["activation"], row["encoder_norm"], [2] if grouped else ()
    )
    prior = None
    if row["prior"] != "none":
        prior = cfg.PriorConfig(
            row["prior"],
            num_steps=2,
            hidden=4,
            activation=row["activation"],
            transform=row["z_transform"],
            num_classes=3 if row["prior"] == "categorical" else 0,
        )
    infers = row["prior"] in ("flow", "normal")
    components = row["principal_components"] if infers else 0
    always = row["prior_always_learns"] and row["prior"] == "flow"
    dequantizer = None
    if row["dequantizer"] == "variational":
        dequantizer = cfg.DequantizerConfig(make_flow([0, 1], "local_linear"), encoder)
    return cfg.ExperimentConfig(
        cfg.ModelConfig(
            (*row["sides"], row["channels"]),
            row["n_bins"],
            latent_dim=0 if prior is None else 4,
            # Two steps, whose weights are stacked, and one split prior hold all that a
            # setting changes.
            flow=make_flow([0, [2], 0], row["conditioning"], factors=[4]),
            encoder=encoder,
            prior=prior,
            dequantizer=dequantizer,
            principal_components=components,
        ),
        objective=cfg.ObjectiveConfig(
            num_samples=row["num_samples"],
            free_nats=9.0 if always else 0.0,
            prior_always_learns=always,
        ),
        optimizer=cfg.OptimizerConfig(warmup_steps=0, ema_decay=row["ema_decay"]),
        training=cfg.TrainingConfig(
            batch_size=4,
            micro_batches=row["micro_batches"],
            recompute=row["recompute"],
            mixed_precision=row["mixed_precision"],
            initialization_images=24,
        ),
    )


def active(row: Row) -> list[tuple[str, object]]:
    """The settings of a row whose needs are met, with their values."""
    return [
        (name, value)
        for name, value in row.items()
        if all(row[other] in values for other, values in NEEDS.get(name, {}).items())
    ]


def pairs_of(row: Row) -> set[Pair]:
    return set(map(frozenset, itertools.combinations(active(row), 2)))


def refusal(row: Row) -> str | None:
    """What construction says against a row, if anything."""
    try:
        experiment(**row)
    except UserError as error:
        return str(error)
    return None


def all_pairs() -> tuple[dict[Pair, Row], dict[Pair, Row]]:
    """Each pair of values that has a meaning, with a row that it needs.

    Returns:
      The pairs that can be built, and those that are refused.
    """
    possible, refused = {}, {}
    for (a, values_a), (b, values_b) in itertools.combinations(SETTINGS.items(), 2):
        for values in itertools.product(values_a, values_b):
            pair = {a: values[0], b: values[1]}
            needs = [need for name in pair for need in NEEDS.get(name, {}).items()]
            row = {other: options[0] for other, options in needs} | pair
            if all(row[other] in options for other, options in needs):
                pairs = possible if refusal(row) is None else refused
                pairs[frozenset(pair.items())] = row
    return possible, refused


def pairwise(seed: int = 0, candidates: int = 4) -> list[Row]:
    """Rows that together hold every possible pair, and no refused one.

    Greedy: each row begins with a pair that is missing; from random values for the
    others, each in turn takes the value with which the row holds most missing pairs.
    The best of some such rows is kept. MaCow steps take three times as long as others:
    a row has them where it holds many more missing pairs for that.

    Reference: Cohen et al., *The AETG System*, IEEE TSE 23(7), 1997.
    """
    rng = random.Random(seed)
    possible, refused = all_pairs()
    missing = dict(possible)

    def worth(row):
        pairs = pairs_of(row)
        if pairs & refused.keys():
            return -1
        return len(pairs & missing.keys()) / (2 if row["step"] == "macow" else 1)

    def candidate(start):
        free = [name for name in SETTINGS if name not in start]
        rng.shuffle(free)
        row = {name: rng.choice(values) for name, values in SETTINGS.items()} | start
        for name in free:
            options = [{**row, name: value} for value in SETTINGS[name]]
            rng.shuffle(options)
            row = max(options, key=worth)
        return row

    rows = []
    while missing:
        start = next(iter(missing.values()))
        row = max((candidate(start) for _ in range(candidates)), key=worth)
        if worth(row) > 0:
            rows.append(row)
            missing = {p: r for p, r in missing.items() if p not in pairs_of(row)}
    return rows
