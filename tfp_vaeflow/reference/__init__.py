"""The models of the reference implementation, `wolf` (github.com/XuezheMax/wolf).

It saves a model as `config.json` and `model.pt`.
"""

from tfp_vaeflow.reference.archive import read_state_dict
from tfp_vaeflow.reference.mapping import IGNORED, assign, weights
from tfp_vaeflow.reference.schema import read_config

__all__ = ["IGNORED", "assign", "read_config", "read_state_dict", "weights"]
