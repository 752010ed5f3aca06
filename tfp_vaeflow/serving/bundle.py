"""Writes the files for TensorFlow Serving: a SavedModel, and the files beside it.

NAME/1/                       a version: SavedModel and warm-up requests
NAME/models.config            --model_config_file
NAME/batching.config          --batching_parameters_file
NAME/signatures.md            what each signature takes and gives
NAME/classes.json             the names of a class-conditional model's labels, if known
NAME/typical_scores.json      how validation images score, if known
NAME/requests/SIGNATURE.json  a request per signature, for curl
"""

import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import tensorflow as tf
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from tfp_vaeflow import compute
from tfp_vaeflow.common import classes, files, typical_scores
from tfp_vaeflow.common.errors import UserError
from tfp_vaeflow.common.typical_scores import TypicalScores
from tfp_vaeflow.model.core import VAEFlowCore
from tfp_vaeflow.serving import folding, warmup
from tfp_vaeflow.serving.signatures import (
    DEFAULT,
    DEFAULT_IS,
    LARGEST_POSITION,
    LARGEST_TEMPERATURE,
    Signature,
    Signatures,
)

# A server fills each batch up to one of these sizes.
BATCH_SIZES = (1, 2, 4, 8, 16, 32)
_BATCHING = """\
max_batch_size {{ value: {largest} }}
batch_timeout_micros {{ value: 2000 }}
max_enqueued_batches {{ value: 100 }}
{allowed}
"""
_MEANINGS = {
    "image": "an image",
    "image_a": "an image, a",
    "image_b": "an image, b",
    "image_bytes": "a PNG or JPEG file (an output: a PNG file)",
    "label": "the class; in `sample` -1 draws one",
    "seed": "the seed of the random draws, 0 to 2^31 - 1; `seed + (i << 31)` gives "
    "image i of Python's `sample(n, seed=seed)`",
    "temperature": f"factor on v, 0 to {LARGEST_TEMPERATURE:g}",
    "alpha": f"where z lies, 0 at a and 1 at b; at most {LARGEST_POSITION:g} to "
    "either side",
    "beta": "where v lies, likewise",
    "z": "the global code; of `encode` the mean of its posterior",
    "v": "the local code",
    "scale": "the standard deviation of z's posterior",
    "z_a_v_b": "the image of a's global and b's local code",
    "z_a_v_b_bytes": "the same, a PNG file",
    "z_b_v_a": "the image of b's global and a's local code",
    "z_b_v_a_bytes": "the same, a PNG file",
    "total": "bits/dim, the sum of the others",
    "generation": "bits/dim of x given z",
    "kl": "bits/dim of z",
    "dequantization": "bits/dim of u",
    "likelihood_map": "the share of each pixel in log p(x | z), in nats",
    "dequantization_map": "the share of each pixel in log q(u | x), in nats",
    "log_prob": "the log-likelihood of the image, importance-weighted, in nats",
    "standard_error": "of `total`, over the samples",
    "is_finite": "false where an input or a result of the row was NaN, infinite or out "
    "of range; it was then replaced by the nearest allowed value, NaN by 0",
}


def publish(finished: Path, directory: str | os.PathLike) -> str:
    """Gives a finished version, a local directory, the next free number.

    On a local path this is one step, a rename. Elsewhere the files are copied, and
    saved_model.pb comes last, because a directory without it is no SavedModel.
    """
    while True:
        names = files.list_dir(directory)
        number = max((int(name) for name in names if name.isdecimal()), default=0) + 1
        target = os.path.join(directory, str(number))
        try:
            if files.is_remote(directory):
                _copy(finished, target)
            else:
                os.rename(finished, target)
        except OSError:
            if not files.exists(target):  # else another export took the number
                raise
        else:
            return target


def _copy(source: Path, target: str) -> None:
    paths = [path for path in source.rglob("*") if path.is_file()]
    for path in sorted(paths, key=lambda path: path.name == "saved_model.pb"):
        name = str(path.relative_to(source))
        files.write_bytes(os.path.join(target, name), path.read_bytes())


def _save(path: Path, signatures: dict[str, Signature]) -> dict[str, dict]:
    """Writes a SavedModel; returns the outputs of each signature."""
    root = tf.Module()
    functions = {}
    for name, signature in signatures.items():
        if name != DEFAULT:
            functions[name] = signature.traced()
    functions[DEFAULT] = functions[DEFAULT_IS]
    used = {v.ref(): v for f in functions.values() for v in f.variables}
    root.weights = list(used.values())  # all that is saved
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    with files.tensorflow_errors(path):
        tf.saved_model.save(root, str(path), functions, options)
    return {name: f.structured_outputs for name, f in functions.items()}


def _table(tensors: dict[str, tf.TensorSpec]) -> list[str]:
    lines = ["| name | type | shape | meaning |", "|---|---|---|---|"]
    for name, spec in tensors.items():
        shape = ", ".join(["batch", *map(str, spec.shape[1:])])
        lines.append(
            f"| `{name}` | {spec.dtype.name} | [{shape}] | {_MEANINGS[name]} |"
        )
    return lines


def _description(
    name: str,
    signatures: dict[str, Signature],
    outputs: dict[str, dict],
    class_names: Sequence[str] | None,
) -> str:
    lines = [
        f"# Signatures of {name}",
        "",
        "Row i of every output depends only on row i of the inputs. Run the commands "
        "in this folder; they call a server at port 8501.",
    ]
    if class_names is not None:
        named = [f"{label} is {name}" for label, name in enumerate(class_names)]
        lines += ["", f"Labels, also in {classes.FILE}: {classes.listed(named)}."]
    for key, signature in signatures.items():
        lines += ["", f"## {key}", "", signature.summary, "", "Inputs:", ""]
        lines += _table({spec.name: spec for spec in signature.inputs})
        lines += ["", "Outputs:", "", *_table(outputs[key]), ""]
        url = f"http://localhost:8501/v1/models/{name}:predict"
        lines += ["```bash", f"curl -d @requests/{key}.json {url}", "```"]
    return "\n".join(lines) + "\n"


def export(
    model: VAEFlowCore,
    directory: str | os.PathLike,
    num_samples: int = 1,
    mixed_precision: bool = False,
    class_names: Sequence[str] | None = None,
    jit_compile: bool = False,
    typical: TypicalScores | None = None,
) -> str:
    """Writes a model for TensorFlow Serving, as a version with the next free number.

    The model is folded (see `folding`) and cannot be used for anything else afterwards.
    A model for XLA is not folded: only steps that are alike can be compiled as a loop.

    Args:
      model: initialised.
      directory: holds all versions; its name is the model's.
      num_samples: K, samples per image in `score`.
      mixed_precision: whether networks compute in bfloat16, as in training with
        `mixed_precision`; codes and log-dets stay float32.
      class_names: of a class-conditional model's labels; None if they are not known.
      jit_compile: whether XLA compiles the flow in the server, for `BATCH_SIZES`.
      typical: how validation images score; None if it is not known.

    Returns:
      The version's directory.

    Raises:
      UserError: if the model is not initialised, or `directory` is a file.
    """
    if not tf.convert_to_tensor(model.initialized):
        raise UserError("the model is not initialised; train it, or load a trained one")
    directory = files.absolute(directory)
    if files.exists(directory) and not files.is_dir(directory):
        raise UserError(f"{directory} is a file; expected a directory for the versions")
    files.make_dirs(directory)
    config = model.config
    if not jit_compile:
        folding.fold(model, tf.bfloat16 if mixed_precision else tf.float32)
    compiled_sizes = BATCH_SIZES if jit_compile else None
    signatures = Signatures(model, num_samples, compiled_sizes).all()
    beside = None if files.is_remote(directory) else directory  # for the rename
    with tempfile.TemporaryDirectory(prefix=".", dir=beside) as temporary:
        finished = Path(temporary) / "version"
        name = os.path.basename(directory)
        with compute.using(mixed_precision=mixed_precision):
            outputs = _save(finished, signatures)
        records = finished / warmup.RECORDS
        sizes = BATCH_SIZES if jit_compile else BATCH_SIZES[:1]
        warmup.write_records(records, name, config, signatures, sizes)
        version = publish(finished, directory)
    names = class_names if config.is_class_conditional else None
    if names is not None:
        names = names[: config.prior.num_classes]
        classes.write(directory, names)
    # Also if they are not known, in place of those of an earlier version.
    typical_scores.write(directory, {} if typical is None else {"exported": typical})
    _write_companions(directory, config, signatures, outputs, names)
    return version


def _write_companions(directory, config, signatures, outputs, class_names) -> None:
    name = os.path.basename(directory)
    for key, signature in signatures.items():
        row = {spec.name: warmup.example(config, spec) for spec in signature.inputs}
        request = {"signature_name": key, "instances": [warmup.json_row(row)]}
        path = os.path.join(directory, "requests", f"{key}.json")
        files.write_text(path, json.dumps(request) + "\n")
    models = model_server_config_pb2.ModelServerConfig()
    models.model_config_list.config.add(
        name=name, base_path=f"/models/{name}", model_platform="tensorflow"
    )
    text = text_format.MessageToString(models)
    files.write_text(os.path.join(directory, "models.config"), text)
    batching = _BATCHING.format(
        largest=BATCH_SIZES[-1],
        allowed="\n".join(f"allowed_batch_sizes: {size}" for size in BATCH_SIZES),
    )
    files.write_text(os.path.join(directory, "batching.config"), batching)
    text = _description(name, signatures, outputs, class_names)
    files.write_text(os.path.join(directory, "signatures.md"), text)
