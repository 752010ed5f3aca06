"""The models of the reference implementation, `wolf` (github.com/XuezheMax/wolf).

It saves a model as `config.json` and `model.pt`.
"""

from tfp_vaeflow.wolf.archive import read_state_dict
from tfp_vaeflow.wolf.mapping import IGNORED, assign, weights
from tfp_vaeflow.wolf.schema import read_config

__all__ = ["IGNORED", "assign", "read_config", "read_state_dict", "weights"]
