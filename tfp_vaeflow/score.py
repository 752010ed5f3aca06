"""Scores pictures: python -m tfp_vaeflow.score --model_dir=DIR --images=PICTURES

PICTURES are files, folders or patterns; --images may be given several times. The table
(scores.csv) has a row per picture: bits/dim and its terms, the log-likelihood,
typicality (the distance of bits/dim from those of validation images), and whether the
picture is flagged: above --threshold, or above a --quantile of validation images or of
the pictures of --normal. A score depends on the picture alone. The same command goes on
where an earlier one was stopped; damaged files are named and left out.
"""

from absl import flags

from tfp_vaeflow import command

command.define_path("model_dir", "Directory of a trained model.")
command.define_checkpoint()
command.define_served_model()
command.define_paths("images", "File, folder or pattern; may be given several times.")
command.define_path("output", "The table of scores.", default="scores.csv")
flags.DEFINE_integer(
    "num_samples", 1, "Samples per picture; for --model_dir.", lower_bound=1
)
flags.DEFINE_integer("seed", 0, "Seed of all random draws.")
flags.DEFINE_string(
    "label", None, "Class of all pictures, for a class-conditional model."
)
flags.DEFINE_enum(
    "by", "bits", ["bits", "typicality"], "The value that flags a picture."
)
flags.DEFINE_float("threshold", None, "Flags pictures above this value.")
flags.DEFINE_float(
    "quantile",
    None,
    "Flags pictures above this quantile of validation images, or of --normal.",
    lower_bound=0,
    upper_bound=1,
)
command.define_path(
    "normal", "Folder of pictures that are not strange, for --quantile."
)
command.define_path("codes", "Directory that takes the codes z as z.npy.")
flags.DEFINE_bool("with_v", False, "Whether --codes takes v.npy, too.")
command.define_path("maps", "Directory that takes likelihood_map.npy.")
flags.DEFINE_integer(
    "sheet", 0, "Makes a picture of so many strangest pictures.", lower_bound=0
)


def _connect():
    """The model behind the flags, its typical scores, and its name."""
    from tfp_vaeflow import client
    from tfp_vaeflow.client.transports import ModelTransport
    from tfp_vaeflow.common import files, typical_scores
    from tfp_vaeflow.common.errors import UserError
    from tfp_vaeflow.config import EvaluationConfig, experiment
    from tfp_vaeflow.model import checkpoints
    from tfp_vaeflow.serving import folding

    flag = command.FLAGS
    places = [flag.model_dir, flag.saved_model, flag.server]
    if sum(place is not None for place in places) != 1:
        raise UserError(
            "expected one of --model_dir, --saved_model and --server; see --help"
        )
    if flag.model_dir is None and flag["num_samples"].present:
        raise UserError(
            "--num_samples is for --model_dir; an export has a fixed number of samples"
        )
    if flag.model_dir is not None:
        model, step = checkpoints.load_with_step(flag.model_dir, flag.checkpoint)
        folding.fold(model)
        name = f"step {step} of {files.absolute(flag.model_dir)}"
        transport = ModelTransport(model, flag.num_samples, name)
        size = EvaluationConfig().batch_size
        if experiment.is_saved(flag.model_dir):
            size = experiment.load_saved(flag.model_dir).evaluation.batch_size
        typical = typical_scores.of_weights(flag.model_dir, flag.checkpoint, step)
        # As in `evaluate`, samples count as images.
        model = client.Client(transport, max(1, size // flag.num_samples))
        return model, typical, name
    model = client.connect(flag.saved_model or flag.server)
    if flag.server is not None:
        return model, None, model.name
    kept = typical_scores.read(_versions(flag.saved_model)).get("exported")
    return model, kept, model.name


def _versions(saved_model: str) -> str:
    """The directory of an export's versions, which holds what they share."""
    import os

    from tfp_vaeflow.common import files

    directory = files.absolute(saved_model)
    is_version = os.path.basename(directory).isdecimal()
    return os.path.dirname(directory) if is_version else directory


def _limit(model, typical, draws):
    """The rule that flags pictures."""
    import numpy as np

    from tfp_vaeflow.client import scoring
    from tfp_vaeflow.common.errors import UserError

    flag = command.FLAGS
    if flag.normal is not None and flag.quantile is None:
        raise UserError("--normal is given without --quantile; expected both")
    if flag.quantile is not None and flag.threshold is not None:
        raise UserError("--quantile and --threshold are given; expected one of them")
    center = None if typical is None else typical.mean
    if flag.normal is not None:
        paths = scoring.find([flag.normal])
        totals = [b.scores["total"] for b in scoring.stream(model, paths, draws)]
        _report(paths)
        if not totals:
            raise UserError(f"--normal={flag.normal} has no pictures that can be read")
        bits = np.concatenate(totals)
        center = float(bits.mean())
        limit = scoring.Limit(flag.by, center, None)
        threshold = float(np.quantile(limit.measured(bits), flag.quantile))
        return limit._replace(threshold=threshold)
    if typical is None and (flag.quantile is not None or flag.by == "typicality"):
        raise UserError(
            "the bits/dim of validation images are not known here; expected --normal, "
            "or --threshold with --by=bits"
        )
    if typical is None:
        print("typicality is empty: bits/dim of validation images are not known here")
    if flag.quantile is None:
        return scoring.Limit(flag.by, center, flag.threshold)
    return scoring.Limit(flag.by, center, typical.quantile(flag.quantile, flag.by))


def _report(paths) -> None:
    """Says which files were left out."""
    for noted in {id(noted): noted for noted in paths.values()}.values():
        for line in noted.lines():
            print(line, flush=True)


def _label(model):
    """The label of --label; None for a model without classes."""
    from tfp_vaeflow.common import classes
    from tfp_vaeflow.common.errors import UserError

    flag = command.FLAGS
    if not model.needs_labels:
        if flag.label is not None:
            raise UserError("--label is given, but this model is not class-conditional")
        return None
    if flag.label is None:
        raise UserError("this model is class-conditional; name the class by --label")
    place = flag.model_dir
    if flag.saved_model is not None:
        place = _versions(flag.saved_model)
    names = None if place is None else classes.read(place)
    return classes.label_of(flag.label, names, 10**9 if names is None else len(names))


def _arrays(model, table):
    """The arrays that take codes and maps."""
    from tfp_vaeflow.client import scoring

    flag = command.FLAGS
    found = []
    if flag.codes is not None:
        shapes = {"z": (model.latent_dim,)} if model.latent_dim else {}
        if flag.with_v:
            shapes["v"] = model.image_shape
        found.append(scoring.Arrays(flag.codes, "encode", shapes, table.done))
    if flag.maps is not None:
        shapes = {"likelihood_map": model.image_shape[:2]}
        found.append(scoring.Arrays(flag.maps, "likelihood_map", shapes, table.done))
    return found


def _check_places() -> None:
    """Checks that everything is written to this machine, and to its own place."""
    from tfp_vaeflow.client import scoring
    from tfp_vaeflow.common import files
    from tfp_vaeflow.common.errors import UserError

    flag = command.FLAGS
    for name in ("output", "codes", "maps"):
        if flag[name].value is not None and files.is_remote(flag[name].value):
            raise UserError(
                f"--{name} is {flag[name].value}; expected a path on this machine"
            )
    scoring.check_new(flag.output, [d for d in (flag.codes, flag.maps) if d])


def _settings(name: str, draws, limit) -> dict:
    """What the rows of the table, and the arrays beside it, depend on."""
    import os

    from tfp_vaeflow.common import files

    flag = command.FLAGS
    relative = any(not os.path.isabs(place) for place in flag.images)
    return {
        "model": name,
        "num_samples": flag.num_samples,
        **draws._asdict(),
        **limit._asdict(),
        "directory": files.absolute(".") if relative else None,
        "codes": flag.codes and files.absolute(flag.codes),
        "maps": flag.maps and files.absolute(flag.maps),
    }


def main() -> None:
    from tfp_vaeflow import client
    from tfp_vaeflow.client import scoring
    from tfp_vaeflow.common import files
    from tfp_vaeflow.common.errors import UserError
    from tfp_vaeflow.common.progress import ItemProgress
    from tfp_vaeflow.evaluation import figures

    flag = command.FLAGS
    _check_places()
    sheet = f"{flag.output.removesuffix('.csv')}.png"
    paths = scoring.find(flag.images, but=sheet)
    try:
        model, typical, name = _connect()
        draws = scoring.Draws(flag.seed, _label(model))
        limit = _limit(model, typical, draws)
        table = scoring.Table(flag.output, _settings(name, draws, limit))
        done = set(table.done)
        left = {p: to for p, to in paths.items() if files.printable(p) not in done}
        if done:
            print(f"{len(done)} pictures are scored already", flush=True)
            if changed := table.changed(paths):
                print(
                    f"{changed} of them were changed after that, and keep their old "
                    "scores; name another --output for new ones",
                    flush=True,
                )
        arrays = _arrays(model, table)
        progress = ItemProgress(len(left), "picture")
        count = flagged = 0
        for scored in scoring.stream(model, left, draws):
            for array in arrays:
                array.add(model, scored, draws)
            flagged += table.add(scored, limit)
            count += len(scored.paths)
            progress.advance(len(scored.paths))
        progress.close()
        _report(paths)
        text = "" if limit.threshold is None else f", {flagged} of them flagged"
        print(f"scored {count} pictures{text}; the table is {flag.output}")
        strangest = flag.sheet and table.strangest(flag.sheet, limit, paths)
        if strangest:
            figures.write_png(sheet, scoring.sheet(model, strangest, draws))
            print(f"wrote {sheet}")
    except client.ServerError as error:
        raise UserError(str(error)) from error


if __name__ == "__main__":
    command.run_main(main, __doc__)
