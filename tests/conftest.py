"""Runs before any test module is imported: two logical CPU devices, quick graphs."""

import collections
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Some tests count devices, or the operations that a CPU runs; others start processes,
# each of which would take all of a GPU's memory.
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
# No test depends on what the user's runs have left, or adds to it.
os.environ["TFP_VAEFLOW_XLA_CACHE"] = "0"

import pytest
import tensorflow as tf

from testing import CommandServer

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0],
    [tf.config.LogicalDeviceConfiguration()] * 2,
)

# Most of the time goes into graphs that run a few times: optimising them is not worth
# it. The commands, run as processes of their own, do optimise.
tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})


@pytest.fixture
def optimized():
    """Graphs are optimised, as they are for users."""
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False})
    yield
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """Runs commands in forks of a process that has imported TensorFlow."""
    server = CommandServer(tmp_path_factory.mktemp("outputs"))
    yield server.run
    server.close()


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="run the long tests too")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--slow"):
        skip = pytest.mark.skip(reason="long test: runs with --slow")
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(skip)


def pytest_terminal_summary(terminalreporter):
    """Says what came of the configurations that tests have recorded, if any."""
    reports = [r for found in terminalreporter.stats.values() for r in found]
    counts = collections.Counter(
        "failed" if report.failed else value
        for report in reports
        if getattr(report, "when", None) == "call"
        for name, value in report.user_properties
        if name == "configuration"
    )
    if counts:
        listed = ", ".join(f"{count} {what}" for what, count in counts.items())
        terminalreporter.line(f"{counts.total()} configurations: {listed}")
