"""A client of a served model, with the method names of the Python API.

    from tfp_vaeflow import client

    model = client.connect("http://localhost:8501/v1/models/digits")  # REST
    model = client.connect("grpc://localhost:8500/digits")
    model = client.connect("serving/digits")     # a SavedModel, in this process
    z, v = model.encode(images)
    images = model.decode(z, v)

All arrays are NumPy's. Importing this module does not load TensorFlow; running a model
in process does, and so does gRPC, whose messages are TensorFlow's.
"""

from tfp_vaeflow.client.model import Client, connect
from tfp_vaeflow.client.transports import ServerError

__all__ = ["Client", "ServerError", "connect"]
