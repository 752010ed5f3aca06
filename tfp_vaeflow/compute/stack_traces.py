"""Graphs without Python's stack traces, which take half of a graph's memory."""

import sys

# Not public, but there is no switch: tests/test_trainer_step.py tells if it goes.
from tensorflow.python.util import tf_stack


class WithoutStackTraces(tf_stack.StackTraceFilter):
    """Operations that are made within know nothing of where in Python they were made.

    TensorFlow writes that out for each operation of a function when it first runs: some
    60 frames, or 8 KB. In the step of a large model it is half a gigabyte, and seconds.
    What names an operation in an error is its own name. XLA crashes on such operations,
    so what it compiles is made outside. A context manager, for the thread that enters
    it.
    """

    def get_filtered_filenames(self) -> set[str]:
        """All files that frames could be in."""
        files = (getattr(m, "__file__", None) for m in list(sys.modules.values()))
        return {file for file in files if file}
