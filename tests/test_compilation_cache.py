"""What XLA compiled is used again if it is right, and never ends a run."""

import hashlib
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from surroundings import NOT_TO_BE_HAD
from test_commands import train_arguments
from testing import start_server
from tfp_vaeflow import command
from tfp_vaeflow.command import compilation_cache

ROOT = Path(__file__).parents[1]
KEY = "0" * 32
RIGHT = 3936.0  # the sum of the product, and of a one for each of 16 numbers


class Compiler:
    """A process that compiles the function, see compilations.py."""

    def __init__(self, report: Path, pid: int):
        self._report = str(report)
        self._pid = pid

    def reached(self, stage: str) -> dict:
        """What it tells at a stage, as soon as it is there."""
        path = Path(f"{self._report}.{stage}")
        end = time.monotonic() + 60
        while not path.exists():
            assert Path(f"/proc/{self._pid}").exists() or path.exists(), self.log
            assert time.monotonic() < end, self.log
            time.sleep(0.02)
        return json.loads(path.read_text())

    def let_go(self, stage: str) -> None:
        Path(f"{self._report}.go-{stage}").touch()

    def kill(self) -> None:
        os.kill(self._pid, signal.SIGKILL)

    @property
    def result(self) -> float:
        self.reached("ended")
        return self.reached("compiled")["result"]

    @property
    def log(self) -> str:
        return Path(f"{self._report}.log").read_text()

    @property
    def said(self) -> list[str]:
        return [
            line for line in self.log.splitlines() if "XLA compiles are not" in line
        ]

    @property
    def how(self) -> str:
        """Whether TensorFlow loaded an entry, or compiled and saved one, or neither."""
        self.reached("ended")
        assert "Traceback" not in self.log
        loaded = self.log.count("Loading cached entry for")
        saved = self.log.count("XlaSerializedCacheEntry saved")
        return {(1, 0): "loaded", (0, 1): "saved", (0, 0): "compiled"}[loaded, saved]


@pytest.fixture(scope="module")
def server():
    process = start_server("compilations.py")
    yield process
    process.stdin.close()
    process.wait()


@pytest.fixture
def store(tmp_path):
    return tmp_path / "store"


@pytest.fixture
def compiler(server, store, tmp_path):
    """Starts a compiler on the store."""
    numbers = itertools.count()

    def start(stops=(), setting=store, environment=(), **others):
        report = tmp_path / f"report-{next(numbers)}"
        variables = {compilation_cache.SWITCH: str(setting), **dict(environment)}
        order = {"report": str(report), "stops": stops, "environment": variables}
        server.stdin.write(json.dumps({**order, **others}) + "\n")
        server.stdin.flush()
        return Compiler(report, int(server.stdout.readline()))

    return start


def kept(store: Path) -> list[Path]:
    return sorted(store.glob("?" * 32 + "/*"))


def assert_sound(store: Path) -> None:
    for path in kept(store):
        content = path.read_bytes()
        assert path.name.endswith(".pb." + hashlib.sha256(content).hexdigest())


def put(store: Path, key: str, name: str, size: int, age: float) -> Path:
    """An entry that was used some time ago."""
    content = name.encode() * size
    path = store / key / f"{name}.pb.{hashlib.sha256(content).hexdigest()}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, (time.time() - age,) * 2)
    return path


def test_a_later_process_uses_what_one_compiled(compiler, store):
    first = compiler()
    assert (first.how, first.result) == ("saved", RIGHT)
    (entry,) = kept(store)
    assert_sound(store)
    assert not os.listdir(store / "in_use")
    second = compiler()
    assert (second.how, second.result) == ("loaded", RIGHT)
    assert kept(store) == [entry]
    other = compiler(summand=2.0)
    assert (other.how, other.result) == ("saved", RIGHT + 16)
    assert len(kept(store)) == 2
    assert not first.said + second.said + other.said


def cut(entry: Path) -> None:
    entry.write_bytes(entry.read_bytes()[:5000])


def empty(entry: Path) -> None:
    entry.write_bytes(b"")


def flip(entry: Path) -> None:
    """In the machine's code: TensorFlow would execute it."""
    content = bytearray(entry.read_bytes())
    for place in range(len(content) - 3000, len(content) - 2900):
        content[place] ^= 0xFF
    entry.write_bytes(content)


def forget_checksum(entry: Path) -> None:
    entry.rename(entry.with_suffix(""))


def replace_by_link(entry: Path) -> None:
    entry.rename(entry.parent.parent / "elsewhere")
    entry.symlink_to(entry.parent.parent / "elsewhere")


def replace_by_pipe(entry: Path) -> None:
    entry.unlink()
    os.mkfifo(entry)


@pytest.mark.parametrize(
    "damage", [cut, empty, flip, forget_checksum, replace_by_link, replace_by_pipe]
)
def test_what_is_damaged_is_compiled_again(compiler, store, damage):
    assert compiler().how == "saved"
    (entry,) = kept(store)
    damage(entry)
    again = compiler()
    assert (again.how, again.result) == ("saved", RIGHT)
    assert_sound(store)
    assert len(kept(store)) == 1
    assert compiler().how == "loaded"


def test_foreign_files(compiler, store):
    assert compiler().how == "saved"
    (entry,) = kept(store)
    entry.with_name("notes.txt").write_text("hello")
    entry.with_name("z.pb." + "0" * 64).write_text("hello")
    entry.with_name("folder").mkdir()
    (store / "mine.pb").write_text("hello")
    assert compiler().how == "loaded"
    assert kept(store) == sorted([entry, entry.with_name("folder")])
    assert (store / "mine.pb").exists()  # which is not where entries are


def test_two_processes_at_once(compiler, store):
    stops = ["started", "compiled"]
    one, two = compiler(stops), compiler(stops)
    for process in (one, two):
        process.reached("started")
    one.let_go("started")
    one.reached("compiled")
    # The first has an entry that is nowhere else; a third starts, looks, and ends.
    three = compiler()
    assert (three.how, three.result) == ("saved", RIGHT)
    two.let_go("started")
    two.reached("compiled")
    for process in (one, two):
        process.let_go("compiled")
    assert (one.how, one.result) == (two.how, two.result) == ("saved", RIGHT)
    assert_sound(store)
    assert compiler().how == "loaded"
    assert len({path.name.split(".pb")[0] for path in kept(store)}) == 1


@pytest.mark.slow
def test_others_take_nothing_away(compiler, store):
    assert compiler().how == "saved"
    process = compiler(["started"])
    process.reached("started")
    shutil.rmtree(store / kept(store)[0].parent)
    process.let_go("started")
    assert (process.how, process.result) == ("loaded", RIGHT)
    # Nor is it fatal to lose all there is, while it writes.
    process = compiler(["started"], summand=2.0)
    process.reached("started")
    shutil.rmtree(store)
    process.let_go("started")
    assert (process.how, process.result) == ("saved", RIGHT + 16)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["started", "compiled"])
def test_killed(compiler, store, stage):
    process = compiler([stage])
    process.reached(stage)
    process.kill()
    assert not kept(store)
    (left,) = (store / "in_use").iterdir()
    assert (compiler().how, compiler().how) == ("saved", "loaded")
    assert left.exists()  # it might be alive
    os.utime(left, (0, time.time() - 2 * 24 * 3600))
    assert compiler().how == "loaded"
    assert not left.exists()


KEEPING = """
import os, sys
from pathlib import Path
from tfp_vaeflow.command import compilation_cache
run = compilation_cache.Run(Path(sys.argv[1]), "0" * 32)
for number in range(200):
    part = run.directory / f"{number}.tmp"
    part.write_bytes(os.urandom(100_000))
    part.rename(run.directory / f"{number}.pb")
print("writing", flush=True)
run.close()
print("closed", flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("links", [True, False])
def test_killed_while_entries_are_kept(store, links):
    code = KEEPING
    if not links:
        code = "import os\ndef link(*_): raise OSError\nos.link = link\n" + KEEPING
    counts = []
    for delay in (0.0, 0.01, 0.03, 0.06):
        process = subprocess.Popen(
            [sys.executable, "-c", code, store],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
        )
        assert process.stdout.readline() == b"writing\n"
        time.sleep(delay)
        process.kill()
        process.communicate()
        counts.append(len(kept(store)))
        assert_sound(store)
        shutil.rmtree(store)
    assert counts[-1] > counts[0]
    assert any(0 < count < 200 for count in counts)  # it was in the middle


def test_kept_while_it_runs(store, monkeypatch):
    monkeypatch.setattr(compilation_cache, "_INTERVAL", 0.01)
    run = compilation_cache.Run(store, KEY)
    run.watch()
    (run.directory / "half.tmp").write_bytes(b"some")
    (run.directory / "whole.pb").write_bytes(b"all")
    end = time.monotonic() + 20
    while not kept(store):
        assert time.monotonic() < end
        time.sleep(0.01)
    assert_sound(store)
    run.close()
    assert len(kept(store)) == 1


def test_a_run_that_fails_leaves_nothing(store, monkeypatch):
    """What it used may be the reason."""
    used = put(store, KEY, "a", 400, 300)
    another = put(store, "f" * 32, "b", 400, 300)
    run = compilation_cache.Run(store, KEY)
    (run.directory / "c.pb").write_bytes(b"some")
    monkeypatch.setattr(compilation_cache, "_run", run)

    def main():
        raise ValueError("a bug")

    monkeypatch.setattr(sys, "argv", ["command"])
    with pytest.raises(ValueError, match="a bug"):
        command.run_main(main, "", with_tensorflow=False)
    assert used.exists()
    run.close()
    assert kept(store) == [another]


@pytest.mark.slow
def test_without_links(store, monkeypatch):
    def link(*_):
        raise PermissionError

    monkeypatch.setattr(os, "link", link)
    run = compilation_cache.Run(store, KEY)
    (run.directory / "a.pb").write_bytes(b"some")
    run.close()
    assert_sound(store)
    run = compilation_cache.Run(store, KEY)
    assert os.listdir(run.directory) == ["a.pb"]
    assert (run.directory / "a.pb").read_bytes() == b"some"
    run.close()
    assert len(kept(store)) == 1


def place_is_taken(store):
    store.write_text("a file")
    return {}, "File exists"


def read_only(store):
    store.mkdir()
    return {"read_only": str(store)}, "Read-only file system"


def elsewhere(store):
    return {"setting": "gs://bucket/cache"}, "not on this machine"


def quoted(store):
    return {"setting": f'{store}/a"b'}, "quotation mark"


@pytest.mark.parametrize("trouble", [place_is_taken, read_only, elsewhere, quoted])
def test_directory_that_cannot_be_used(compiler, store, trouble):
    order, reason = trouble(store)
    if "read_only" in order and not can_mount():
        pytest.skip("no mounts in namespaces here")
    process = compiler(["started"], **order)
    assert process.reached("started")["directory"] is None
    process.let_go("started")
    assert (process.how, process.result) == ("compiled", RIGHT)
    (line,) = process.said
    assert reason in line and compilation_cache.SWITCH in line


def can_mount() -> bool:
    code = f"import surroundings; surroundings.apply({{'read_only': '{ROOT}/tests'}})"
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT / "tests")
    return process.returncode != NOT_TO_BE_HAD


@pytest.mark.slow
def test_no_home(monkeypatch):
    monkeypatch.setenv("HOME", "relative")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    with pytest.raises(OSError, match="no home directory"):
        compilation_cache._default_store()


def test_no_room(compiler, store):
    """TensorFlow would end the run where it cannot write: it does not try."""
    assert compiler().how == "saved"
    for summand, how in ((1.0, "loaded"), (2.0, "compiled")):
        process = compiler(["started"], largest_file=4096, summand=summand)
        assert not process.reached("started")["writable"]
        process.let_go("started")
        assert (process.how, process.result) == (how, RIGHT + 16 * (summand - 1))
        assert "512 MB" in process.said[0]
    assert len(kept(store)) == 1


def test_switched_off(compiler, store, tmp_path):
    flags = tmp_path / "flags"
    flags.write_text("--tf_xla_auto_jit=0")
    for order in ({"setting": "0"}, {"environment": {"TF_XLA_FLAGS": str(flags)}}):
        process = compiler(["started"], **order)
        assert process.reached("started")["directory"] is None
        assert not process.said
        process.kill()
    flag = f"--tf_xla_persistent_cache_directory={tmp_path}/own"
    process = compiler(environment={"TF_XLA_FLAGS": flag})
    assert process.how == "saved"
    assert len(os.listdir(tmp_path / "own")) == 1
    assert not store.exists()


@pytest.mark.slow
def test_directories(compiler, tmp_path):
    """Other flags stay; a path may have spaces."""
    spaced = tmp_path / "a b'c"
    flags = {"TF_XLA_FLAGS": "--tf_xla_persistent_cache_prefix=mine"}
    assert compiler(setting=spaced, environment=flags).how == "saved"
    assert kept(spaced)[0].name.startswith("mine__")
    cache = tmp_path / "cache"
    environment = {"XDG_CACHE_HOME": str(cache)}
    assert compiler(setting="", environment=environment).how == "saved"
    environment = {"XDG_CACHE_HOME": "", "HOME": str(tmp_path)}
    assert compiler(setting="", environment=environment).how == "saved"
    for place in (cache, tmp_path / ".cache"):
        store = place / "tfp_vaeflow" / "xla"
        assert len(kept(store)) == 1
        assert store.stat().st_mode & 0o77 == 0


def test_key(monkeypatch):
    assert re.fullmatch("[0-9a-f]{32}", compilation_cache.key())
    before = compilation_cache.key()
    monkeypatch.setenv("SOMETHING", "else")
    assert compilation_cache.key() == before
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true")
    assert compilation_cache.key() != before
    monkeypatch.delenv("XLA_FLAGS")
    for name in ("_libraries", "_processor"):
        with monkeypatch.context() as patch:
            patch.setattr(compilation_cache, name, lambda: ["another"])
            assert compilation_cache.key() != before


@pytest.mark.slow
def test_key_goes_by_the_project(tmp_path):
    shutil.copytree(ROOT / "tfp_vaeflow", tmp_path / "tfp_vaeflow")
    code = "from tfp_vaeflow.command import compilation_cache as c; print(c.key())"

    def key():
        # Python's own idea of what has changed goes by seconds.
        return subprocess.check_output([sys.executable, "-B", "-c", code], cwd=tmp_path)

    before = key()
    assert before.decode().strip() == compilation_cache.key()
    with open(tmp_path / "tfp_vaeflow" / "model" / "core.py", "a") as file:
        file.write("# more\n")
    assert key() != before


def test_size_limit(store):
    other = "f" * 32
    old = put(store, other, "a", 400, 300)
    middle = put(store, KEY, "b", 400, 200)
    new = put(store, KEY, "c", 400, 100)
    mine = store / "pictures" / "large"
    mine.parent.mkdir()
    mine.write_bytes(bytes(5000))
    compilation_cache.shrink(store, 1200)
    assert kept(store) == sorted([old, middle, new])
    compilation_cache.shrink(store, 1199)
    assert kept(store) == sorted([middle, new])
    assert not (store / other).exists()
    compilation_cache.shrink(store, 400)
    assert kept(store) == [new]
    assert mine.exists()


def test_what_is_used_stays(store, monkeypatch):
    monkeypatch.setattr(compilation_cache.shrink, "__defaults__", (800,))
    used = put(store, KEY, "a", 400, 300)
    unused = put(store, KEY, "b", 400, 200)
    run = compilation_cache.Run(store, KEY)
    (run.directory / "a.pb").read_bytes()  # as TensorFlow does
    if (run.directory / "a.pb").stat().st_atime_ns == 0:
        run.close()
        pytest.skip("this file system does not tell what was read")
    (run.directory / "c.pb").write_bytes(bytes(400))
    run.close()
    assert used in kept(store) and unused not in kept(store)
    assert len(kept(store)) == 2


COMMAND = """
import sys
from tfp_vaeflow import command
def main():
    import tensorflow as tf
    @tf.function(jit_compile=True)
    def function(x):
        return tf.reduce_sum(tf.matmul(x, x) + 1.0)
    print(float(function(tf.reshape(tf.range(16.0), (4, 4)))))
    sys.exit(42)
command.run_main(main, "a command")
"""


@pytest.mark.slow
def test_a_run_that_goes_on_compiles_nothing_new(store, tmp_path):
    """Neither its step nor its validation; from pictures in files."""
    rng = np.random.default_rng(0)
    (tmp_path / "pictures").mkdir()
    for number in range(200):
        picture = Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8))
        picture.save(tmp_path / "pictures" / f"{number}.png")
    environment = {**os.environ, compilation_cache.SWITCH: str(store)}
    found = None
    for steps in (2, 4):
        arguments = train_arguments(tmp_path / "run", steps)
        subprocess.run(
            [
                *(sys.executable, "-m", "tfp_vaeflow.train", *arguments),
                "--gin_bindings=TrainingConfig.jit_compile=True",
                f"--data_dir={tmp_path / 'pictures'}",
            ],
            cwd=tmp_path,
            env={**environment, "PYTHONPATH": ROOT},
            check=True,
        )
        before, found = found, kept(store)
    assert len(found) >= 2 and found == before


def test_command(store):
    """A command keeps what it compiled, however it ends, and says nothing of it."""
    for _ in ("compiled", "read"):
        process = subprocess.run(
            [sys.executable, "-c", COMMAND],
            env={
                **{k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"},
                compilation_cache.SWITCH: str(store),
                "PYTHONPATH": ROOT,
            },
            capture_output=True,
            text=True,
        )
        assert (process.stdout, process.stderr) == (f"{RIGHT}\n", "")
        assert process.returncode == 42
        assert len(kept(store)) == 1
        assert_sound(store)
        assert not os.listdir(store / "in_use")
