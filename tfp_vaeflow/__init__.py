"""VAEs whose decoder is an invertible flow: a global code z and a local code v.

    import tfp_vaeflow as vf

    model = vf.load_pretrained("digits")    # or vf.load("runs/mine")
    z, v = model.encode(images)
    images = model.decode(z, v)             # exactly the same images

Names are imported when they are used, so that importing the package takes no time.
"""

import importlib

__version__ = "0.1.0"

_HOMES = {
    "load": "tfp_vaeflow.model.checkpoints",
    "load_pretrained": "tfp_vaeflow.pretrained",
    "train": "tfp_vaeflow.training.given",
    "build_model": "tfp_vaeflow.model",
    "VAEFlow": "tfp_vaeflow.model",
    "Losses": "tfp_vaeflow.model.objective",
    "CouplingConfig": "tfp_vaeflow.config",
    "EncoderConfig": "tfp_vaeflow.config",
    "FlowConfig": "tfp_vaeflow.config",
    "ModelConfig": "tfp_vaeflow.config",
    "PriorConfig": "tfp_vaeflow.config",
    "UserError": "tfp_vaeflow.common.errors",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__():
    return sorted([*globals(), *_HOMES])
