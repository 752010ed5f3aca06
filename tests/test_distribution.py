"""The lock that keeps a second trainer out of a directory."""

import subprocess
import sys

import pytest

from tfp_vaeflow.distribution import locked
from tfp_vaeflow.errors import UserError

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
