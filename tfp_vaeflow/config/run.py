"""The settings of a run: data, objective, optimizer, training, evaluation."""

import dataclasses
import math

from tfp_vaeflow.common.errors import UserError
from tfp_vaeflow.config.checks import PATH, PATH_OR_NAME, Settings
from tfp_vaeflow.config.model import ModelConfig

ALL_REDUCE = ("auto", "nccl", "hierarchical_copy", "one_device", "ring")


@dataclasses.dataclass(frozen=True)
class ObjectiveConfig(Settings):
    """The training objective; reports always show the plain ELBO.

    Attributes:
      num_samples: samples of (z, u) per image.
      kl_weight: beta, the weight of the KL.
      kl_warmup_steps: steps over which the KL weight rises linearly from 0.
      free_nats: the KL of an example costs at least this much, so nothing is gained
        by making it smaller (Kingma et al. 2016, arXiv 1606.04934, appendix C.8).
      prior_always_learns: whether p(z) learns from examples whose KL is below
        `free_nats`, too. Otherwise it fits the others only. With hundreds of free nats
        samples need it; with few, z tells the class less well.
    """

    num_samples: int = 1
    kl_weight: float = 1.0
    kl_warmup_steps: int = 0
    free_nats: float = 0.0
    prior_always_learns: bool = False

    def check(self):
        self._at_least("num_samples", 1)
        self._at_least("kl_weight", 0)
        self._at_least("kl_warmup_steps", 0)
        self._at_least("free_nats", 0)
        if self.prior_always_learns and not self.free_nats:
            raise UserError(
                "ObjectiveConfig.prior_always_learns is True with free_nats = 0, where "
                "the prior learns from all examples anyway; expected free_nats, or "
                "False"
            )


@dataclasses.dataclass(frozen=True)
class OptimizerConfig(Settings):
    """AdamW with the paper's schedule.

    Attributes:
      learning_rate: reached after the warm-up.
      warmup_steps: steps of linear warm-up, from 1e-7.
      decay: factor per step after the warm-up.
      beta_1, beta_2, epsilon: of Adam.
      weight_decay: decoupled, on every parameter.
      clip_norm: largest global norm of the gradient of the whole batch; longer
        gradients are scaled down to it. 0 for no limit.
      ema_decay: decay of the moving average of the weights; this average is then
        evaluated, shown and loaded. 0 for none.
    """

    learning_rate: float = 1e-3
    warmup_steps: int = 50
    decay: float = 0.999997
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 1e-6
    clip_norm: float = 0.0
    ema_decay: float = 0.0

    def check(self):
        self._at_least("learning_rate", 0)
        self._at_least("clip_norm", 0)
        self._at_least("warmup_steps", 0)
        self._at_least("weight_decay", 0)
        for field in ("learning_rate", "epsilon", "weight_decay", "clip_norm"):
            if math.isinf(getattr(self, field)):
                raise UserError(f"OptimizerConfig.{field} is inf; expected a number")
        if not self.epsilon > 0:
            raise UserError(f"OptimizerConfig.epsilon is {self.epsilon}; expected > 0")
        for field in ("beta_1", "beta_2", "ema_decay"):
            if not 0 <= getattr(self, field) < 1:
                raise UserError(
                    f"OptimizerConfig.{field} is {getattr(self, field)}; "
                    "expected at least 0 and less than 1"
                )
        if not 0 < self.decay <= 1:
            raise UserError(
                f"OptimizerConfig.decay is {self.decay}; expected 0 < decay <= 1"
            )


@dataclasses.dataclass(frozen=True)
class DataConfig(Settings):
    """Where the images come from and how they are varied in training.

    Attributes:
      name: `digits`, `tfds:NAME` for a data set of TensorFlow Datasets, or `folder`.
      data_dir: where the data set lies; None for the library's default. A folder of
        images here, or a .npy or .npz file, takes the place of the data set that `name`
        names.
      validation_fraction: fraction of the training images to set aside for validation
        if the data set has no validation part, and as much for testing if it has no
        test part. 0 sets nothing aside.
      horizontal_flip: flip half of the training images left to right.
      shift: move training images by up to this many pixels in each direction.
      shift_fill: what fills the border: `reflect` or `constant` (zeros).
    """

    name: str = "digits"
    data_dir: str | None = dataclasses.field(default=None, metadata=PATH)
    validation_fraction: float = 0.1
    horizontal_flip: bool = False
    shift: int = 0
    shift_fill: str = "reflect"

    def check(self):
        self._choose("shift_fill", ("reflect", "constant"))
        self._at_least("shift", 0)
        if not 0 <= self.validation_fraction < 0.5:
            raise UserError(
                f"DataConfig.validation_fraction is {self.validation_fraction}; "
                "expected at least 0 and less than 0.5"
            )


@dataclasses.dataclass(frozen=True)
class TrainingConfig(Settings):
    """How long to train, and what to write when.

    Attributes:
      batch_size: images per step, over all devices.
      micro_batches: number of parts that each device divides its share of the batch
        into, and computes in turn, to save memory. The result is that of the whole
        batch.
      recompute: compute the activations inside encoders and the flow's networks again
        for their gradients, and do not keep them: half the memory for a third more
        time.
      jit_compile: compile the step with XLA; None compiles it if there is a GPU. With
        several replicas the encoders are not compiled, because their batch norm joins
        the replicas.
      mixed_precision: compute coupling networks and encoders in bfloat16; weights, the
        flow's state, log-dets and losses stay float32, and so does all of evaluation.
        Only processors and GPUs that have bfloat16 get faster.
      allow_tf32: on a GPU, round the factors of products to 10 bits of mantissa (TF32)
        where they are float32. It is faster, and a little less exact.
      num_steps: total number of updates.
      minutes: ends the run after about so many minutes. A new run then measures a step
        and sets `num_steps`, `OptimizerConfig.warmup_steps` and `decay`, and shortens
        the rhythms below. The run keeps these values, so a resumed run ends at the same
        step. None for no limit.
      deterministic: on a GPU, use only operations that give the same bits every time,
        and do not choose among them by timing; on a CPU all operations give them.
      all_reduce: how devices add up gradients: `nccl` (GPUs), `hierarchical_copy`,
        `one_device` (one of them adds for all); between machines `nccl` or `ring`;
        `auto` is TensorFlow's choice.
      seed: of the initial weights, the order of the images and all noise.
      init_from: model directory of the same architecture, whose weights a new run
        begins with in place of fresh ones.
      initialization_images: training images for data-dependent initialisation, two
        or more.
      log_every: steps between lines of metrics.
      evaluate_every: steps between passes over the validation part.
      checkpoint_every: steps between checkpoints.
      keep_checkpoints: last checkpoints to keep (the best is kept besides).
      images_every: steps between image grids; 0 for none.
      evaluation_batch_size: images at a time in validation, over all devices; None for
        as many as in a micro-batch, so that it takes no more memory than a step.
      max_skipped_steps: the run ends after this many steps in a row without an update.
        A step makes no update if a loss or the gradient is not finite.
    """

    batch_size: int = 64
    micro_batches: int = 1
    recompute: bool = False
    jit_compile: bool | None = None
    mixed_precision: bool = False
    allow_tf32: bool = False
    deterministic: bool = False
    all_reduce: str = "auto"
    num_steps: int = 1000
    minutes: float | None = None
    seed: int = 0
    init_from: str | None = dataclasses.field(default=None, metadata=PATH)
    initialization_images: int = 512
    log_every: int = 50
    evaluate_every: int = 500
    checkpoint_every: int = 500
    keep_checkpoints: int = 3
    images_every: int = 1000
    evaluation_batch_size: int | None = None
    max_skipped_steps: int = 10

    def check(self):
        least = {"seed": 0, "images_every": 0, "num_steps": 0}
        least["initialization_images"] = 2  # their standard deviation is taken
        for field in dataclasses.fields(self):
            if field.type is int:
                self._at_least(field.name, least.get(field.name, 1))
        self._choose("all_reduce", ALL_REDUCE)
        if self.minutes is not None and not 0 < self.minutes < math.inf:
            raise UserError(
                f"TrainingConfig.minutes is {self.minutes}; expected more than 0"
            )
        if self.evaluation_batch_size is not None:
            self._at_least("evaluation_batch_size", 1)


@dataclasses.dataclass(frozen=True)
class EvaluationConfig(Settings):
    """How a trained model is measured.

    Attributes:
      num_samples: samples of (z, u) per image for the ELBO.
      batch_size: images at a time, or samples if each image has several.
      seed: of all noise.
      probe_seeds: number of fits of each probe, each on four fifths of the images.
      probe_images: largest number of images to fit probes on, and to test them on; also
        of each data set in the comparison of log-likelihoods with other data.
      classifier: path of a Keras file: a classifier of real images that judges
        switches, and samples if there is no `feature_network`. None for a small one
        that is trained for this. See `evaluation.classifier.read`.
      classifier_steps: training steps of the small classifier, of 128 images each.
      switch_pairs: number of switches in the decoupling score.
      generated_images: number of images sampled at each temperature, and largest number
        of real images that they are compared with.
      temperature: of the samples in measures that take one temperature.
      temperatures: of the samples that FID and KID compare with real images.
      feature_network: network whose features FID and KID compare: `inception` (Keras'
        InceptionV3, ImageNet weights), or the path of a Keras file or SavedModel; None
        for the small classifier.
      feature_pixel_range: values that a network given by its path takes for the pixels
        0 and 255.
      other_data: another data set to tell from the model's own: a name, for its test
        part, or a folder, for all its pictures. None for none.
    """

    num_samples: int = 16
    batch_size: int = 180
    seed: int = 0
    probe_seeds: int = 3
    probe_images: int = 5000
    classifier: str | None = dataclasses.field(default=None, metadata=PATH)
    classifier_steps: int = 600
    switch_pairs: int = 500
    generated_images: int = 500
    temperature: float = 0.7
    temperatures: tuple[float, ...] = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    feature_network: str | None = dataclasses.field(default=None, metadata=PATH_OR_NAME)
    feature_pixel_range: tuple[float, float] = (0.0, 255.0)
    other_data: str | None = dataclasses.field(default=None, metadata=PATH_OR_NAME)

    def check(self):
        for field in dataclasses.fields(self):
            if field.type is int:
                least = {"seed": 0, "generated_images": 8}.get(field.name, 1)
                self._at_least(field.name, least)
        self._at_least("temperature", 0)
        if not self.temperatures or min(self.temperatures) < 0:
            raise UserError(
                f"EvaluationConfig.temperatures is {self.temperatures}; expected one "
                "or more, each at least 0"
            )


@dataclasses.dataclass(frozen=True)
class ExperimentConfig(Settings):
    """One experiment: everything an experiment file decides."""

    model: ModelConfig
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    objective: ObjectiveConfig = dataclasses.field(default_factory=ObjectiveConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = dataclasses.field(default_factory=EvaluationConfig)

    def check(self):
        side = min(self.model.image_shape[:2])
        if self.data.shift >= side:
            raise UserError(
                f"DataConfig.shift is {self.data.shift} for images of {side} pixels; "
                f"expected less than {side}"
            )
        model = self.model
        learns = model.has_posterior and model.prior.kind == "flow"
        if self.objective.prior_always_learns and not learns:
            raise UserError(
                "ObjectiveConfig.prior_always_learns is True without a prior that "
                "learns from z; expected PriorConfig.kind = 'flow', or False"
            )
        images, count = self.training.initialization_images, model.least_images
        if images < count:
            raise UserError(
                f"TrainingConfig.initialization_images is {images}; expected at least "
                f"{count}, for {model.principal_components} principal components"
            )
        if not self.has_batch_norm_in_flow:
            return
        for field, without in (
            ("micro_batches", 1),
            ("recompute", False),
        ):
            value = getattr(self.training, field)
            if value != without:
                raise UserError(
                    f"TrainingConfig.{field} is {value} with FlowConfig.norm = "
                    "'batch', which has to see the whole batch exactly once; "
                    f"expected {without}, or another norm"
                )

    @property
    def has_batch_norm_in_flow(self) -> bool:
        """Whether a coupling network looks at the whole batch."""
        dequantizer = self.model.dequantizer
        flows = [self.model.flow, *([dequantizer.flow] if dequantizer else [])]
        return "batch" in [flow.norm for flow in flows]
