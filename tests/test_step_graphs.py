"""Steps that share a graph, are recomputed or compiled, give what they gave."""

import numpy as np
import pytest
import tensorflow as tf

from testing import float64_init, randomize
from tfp_vaeflow import compute
from tfp_vaeflow.bijectors import MultiScaleFlow
from tfp_vaeflow.config import FlowConfig
from tfp_vaeflow.networks import Initializer

KINDS = {
    "glow": {},
    "macow": {"step": "macow", "num_steps": [1, [1], 1]},
    "others": {
        "conv1x1": "lu",
        "norm": "group",
        "num_groups": [2, 2, 2],
        "conditioning": "global_attn",
    },
}
WAYS = {"shared": False, "recomputed": True}


def make_flow(init, **changes):
    sizes = {"num_steps": [1, [2, 1], 1], "hidden": [4, 6, 4], "factors": [4]}
    flow = MultiScaleFlow(FlowConfig(**{**sizes, **changes}), 3, 2, init)
    randomize(flow, scale=0.1)
    return flow


def likelihood_with_gradients(flow):
    """A function: log-likelihood, its gradients by x, conditioning and weights."""
    rng = np.random.default_rng(0)
    shapes = (3, 8, 8, 3), (3, 2)
    constants = [tf.constant(rng.standard_normal(s), flow.dtype) for s in shapes]

    @tf.function(autograph=False)
    def run():
        x, z = map(tf.identity, constants)
        with tf.GradientTape() as tape:
            tape.watch([x, z])
            v, log_det = flow.inverse_and_log_det(x, z)
            value = tf.reduce_sum(log_det) - tf.reduce_sum(v**2) / 2
        return [value, *tape.gradient(value, [x, z, *flow.trainable_variables])]

    return run


def gradients(flow, **mode):
    run = likelihood_with_gradients(flow)
    with compute.using(**mode):
        return run()


def compiled_gradients(flow, recompute):
    run = likelihood_with_gradients(flow)

    @tf.function(autograph=False, jit_compile=True)
    def compiled():
        with compute.using(compiled=True, recompute=recompute):
            return run.python_function()

    return compiled()


def calls(flow, recompute=False):
    """The calls of functions in the graph of `likelihood_with_gradients`."""
    with compute.using(graphs=compute.SharedGraphs(), recompute=recompute):
        graph = likelihood_with_gradients(flow).get_concrete_function().graph
    return [op for op in graph.get_operations() if "PartitionedCall" in op.type]


@pytest.fixture(
    scope="module",
    params=[
        "glow",
        pytest.param("macow", marks=pytest.mark.slow),
        pytest.param("others", marks=pytest.mark.slow),
    ],
)
def flow_and_gradients(request):
    """A flow, and its gradients without `SharedGraphs`."""
    flow = make_flow(float64_init(), **KINDS[request.param])
    return flow, gradients(flow)


@pytest.mark.parametrize("way", WAYS)
def test_same_gradients(flow_and_gradients, way):
    """And each variable is in its place afterwards."""
    flow, expected = flow_and_gradients
    before = [id(variable) for variable in flow.variables]
    found = gradients(flow, graphs=compute.SharedGraphs(), recompute=WAYS[way])
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)
    assert [id(variable) for variable in flow.variables] == before


@pytest.mark.slow
@pytest.mark.parametrize("recompute", [False, True])
def test_compiled_by_xla(flow_and_gradients, recompute):
    flow, expected = flow_and_gradients
    found = compiled_gradients(flow, recompute)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-6)


def test_steps_of_a_kind_are_traced_once():
    found = calls(make_flow(Initializer()))
    # On level 0 a step; on level 1 two alike and a split prior, then one step on fewer
    # channels with its split prior; a step on top. Each forward and backward.
    assert len(found) == 14
    assert len({call.get_attr("f").name for call in found}) == 12


def test_networks_alike_share_a_graph():
    with compute.using(graphs=compute.SharedGraphs()):
        run = likelihood_with_gradients(make_flow(Initializer()))
        library = run.get_concrete_function().graph.as_graph_def().library.function
    called = [
        {n.attr["f"].func.name for n in function.node_def if "Partitioned" in n.op}
        for function in library
    ]
    of_steps = [names for names in called if names]
    assert of_steps and all(len(names) == 1 for names in of_steps)


def test_recomputation_keeps_little():
    """Of wide networks: what passes between them is as wide as the image."""
    flow = make_flow(Initializer(), hidden=[32, 32, 32])

    def kept(recompute):
        total = 0
        for call in calls(flow, recompute):
            if call.get_attr("f").name.startswith("__forward"):
                # What is given back in the shape of an argument is (or could be) it.
                given = {tuple(tensor.shape) for tensor in call.inputs}
                new = [t for t in call.outputs if tuple(t.shape) not in given]
                total += sum(tensor.shape.num_elements() or 0 for tensor in new)
        return total

    assert 0 < kept(True) < kept(False) / 4
