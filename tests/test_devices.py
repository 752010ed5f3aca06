"""Which workers a run has and what each reads; the lock of its directory."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from testing import random_images
from tfp_vaeflow import compute, data
from tfp_vaeflow.common.errors import UserError
from tfp_vaeflow.config import DataConfig
from tfp_vaeflow.data.splits import in_memory
from tfp_vaeflow.training.cluster import Cluster, find_cluster
from tfp_vaeflow.training.devices import locked, make_strategy, run_directory

HOLDER = """
import fcntl, sys, time
file = open(sys.argv[1] + "/.lock", "a+")
fcntl.flock(file, fcntl.LOCK_EX)
file.write("4711 on elsewhere")
file.flush()
print("held", flush=True)
time.sleep(60)
"""


def test_a_second_trainer_is_refused_until_the_first_is_dead(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE
    )
    assert holder.stdout.readline() == b"held\n"
    message = r"another process \(4711 on elsewhere\) is training in"
    with pytest.raises(UserError, match=message), locked(tmp_path):
        pytest.fail("the lock was held by another process")
    holder.kill()
    holder.communicate()
    with locked(tmp_path / "."):
        pass
    with locked(tmp_path / "new" / "directory"):
        assert (tmp_path / "new" / "directory" / ".lock").exists()


@pytest.fixture
def environment(monkeypatch):
    for name in ("TF_CONFIG", "SLURM_STEP_NUM_TASKS", "SLURMD_NODENAME"):
        monkeypatch.delenv(name, raising=False)
    return lambda **values: [monkeypatch.setenv(k, str(v)) for k, v in values.items()]


def test_workers_of_tf_config(environment):
    """A chief comes first."""
    assert find_cluster() is None
    environment(TF_CONFIG="{}")
    assert find_cluster() is None
    jobs = {"worker": ["a:1", "b:1"], "chief": ["c:1"]}
    for task, index in ((("chief", 0), 0), (("worker", 1), 2)):
        task = dict(zip(("type", "index"), task))
        environment(TF_CONFIG=json.dumps({"cluster": jobs, "task": task}))
        assert find_cluster() == Cluster(["c:1", "a:1", "b:1"], index)


@pytest.mark.parametrize(
    "config, message",
    [
        ("{", "TF_CONFIG is {; expected"),
        ("[]", "expected"),
        ('{"cluster": {"worker": 3}}', "expected"),
        ('{"cluster": {"worker": ["a:1", "b:1"]}}', "expected"),
        (
            '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}',
            "expected",
        ),
        ('{"cluster": {"ps": ["a:1"]}}', "a task of type 'ps'"),
        (
            '{"cluster": {"worker": ["a:1"]}, "task": {"type": "evaluator"}}',
            "a task of type 'evaluator'",
        ),
    ],
)
def test_wrong_tf_config(environment, config, message):
    environment(TF_CONFIG=config)
    with pytest.raises(UserError, match=message):
        make_strategy()


SLURM = {
    "SLURM_JOB_ID": 5,
    "SLURM_STEP_NUM_TASKS": 3,
    "SLURM_STEP_NODELIST": "n[9-10]",
    "SLURM_STEP_TASKS_PER_NODE": "2,1",
}


def test_workers_of_slurm(environment):
    """In the order of the nodes, which TensorFlow's resolver sorts as texts."""
    environment(**SLURM, SLURM_PROCID=2, SLURMD_NODENAME="n10")
    assert find_cluster() == Cluster(["n9:12080", "n9:12081", "n10:12080"], 2)
    environment(SLURMD_NODENAME="n9")
    with pytest.raises(UserError, match="SLURM runs task 2 on n9"):
        find_cluster()
    environment(SLURM_STEP_TASKS_PER_NODE="2")
    with pytest.raises(UserError, match="do not fit together"):
        find_cluster()
    environment(SLURM_STEP_NUM_TASKS=1)
    assert find_cluster() is None


def test_what_is_not_there(environment):
    with pytest.raises(UserError, match="neither TF_CONFIG nor a SLURM step names"):
        make_strategy("multi_worker")
    with pytest.raises(UserError, match="there is no TPU 'local' here"):
        make_strategy("tpu")
    assert make_strategy("one_device").num_replicas_in_sync == 1


@pytest.mark.parametrize("all_reduce", ["auto", "hierarchical_copy", "one_device"])
def test_ways_of_adding_up(all_reduce):
    """On the two devices that conftest makes."""
    strategy = make_strategy("mirrored", all_reduce)

    def on_replica():
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        number = tf.ones([]) + tf.cast(replica, tf.float32)
        return compute.summed_over_replicas([number * tf.ones([3]), number * 10])

    run = tf.function(lambda: strategy.run(on_replica), autograph=False)
    for value, expected in zip(run(), ([3, 3, 3], 30)):
        for local in strategy.experimental_local_results(value):
            np.testing.assert_array_equal(local, expected)


def test_ways_that_there_are_not(environment):
    with pytest.raises(
        UserError, match="all_reduce is 'nccl', which is not available be"
    ):
        make_strategy("mirrored", "nccl")
    with pytest.raises(UserError, match="expected auto, hierarchical_copy or one_dev"):
        make_strategy("mirrored", "ring")
    jobs, task = {"worker": ["a:1", "b:1"]}, {"type": "worker", "index": 0}
    environment(TF_CONFIG=json.dumps({"cluster": jobs, "task": task}))
    with pytest.raises(UserError, match="between machines; expected auto, nccl or r"):
        make_strategy("multi_worker", "one_device")


SHARES = [data.Share(index, 2) for index in range(2)]


def test_two_workers_read_what_one_reads():
    """Epochs of 10 images in batches of 4, augmented; each image once an epoch."""
    images = random_images(10)
    split = in_memory(images, np.arange(10))
    config = DataConfig("digits", shift=1, shift_fill="constant", horizontal_flip=True)

    def batches(*share):
        found = data.training_batches(split, config, 4, 1, 3, True, *share)
        return [data.Batch(*map(np.array, batch)) for batch in found.take(5)]

    whole, halves = batches(), [batches(share) for share in SHARES]
    for one, *two in zip(whole, *halves):
        for part, pieces in zip(one, zip(*two)):
            np.testing.assert_array_equal(np.concatenate(pieces), part)
    # Batches 3 to 7 are places 12 to 31: places 20 to 29 are the third epoch.
    labels = np.concatenate([b.labels for pair in zip(*halves) for b in pair])
    assert sorted(labels[8:18]) == list(range(10))


def test_two_workers_evaluate_each_image_once():
    split = in_memory(random_images(10), np.arange(10))
    seen = []
    for share in SHARES:
        batches = list(data.evaluation_batches(split, 4, True, share))
        assert [len(batch.images) for batch in batches] == [2, 2, 2]
        for batch in batches:
            np.testing.assert_array_equal(
                batch.labels, np.where(batch.weights, batch.positions, 0)
            )
            seen += list(np.array(batch.positions)[np.array(batch.weights) == 1])
    assert sorted(seen) == list(range(10))


def test_only_the_chief_writes_to_the_directory(tmp_path):
    with run_directory(tmp_path, SHARES[0]) as directory:
        assert directory == tmp_path
        with run_directory(tmp_path, SHARES[1]) as other:
            (Path(other) / "checkpoint").write_text("")
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    assert not Path(other).exists()
