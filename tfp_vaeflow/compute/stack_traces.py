"""Graphs without Python's stack traces, which take half of a graph's memory."""

import sys

# Not public, but there is no switch: tests/test_training_step.py fails if it goes.
from tensorflow.python.util import tf_stack


class WithoutStackTraces(tf_stack.StackTraceFilter):
    """Within this context, a thread makes operations without Python's stack traces.

    TensorFlow writes out the stack trace of each operation of a function when the
    function first runs: some 60 frames, or 8 KB. For the step of a large model that
    takes half a gigabyte, and seconds. Errors name such an operation by its own name
    alone. XLA crashes on such operations, so the functions that it compiles are made
    outside. The context holds for the thread that enters it.
    """

    def get_filtered_filenames(self) -> set[str]:
        """All files that frames could be in."""
        files = (getattr(m, "__file__", None) for m in list(sys.modules.values()))
        return {file for file in files if file}
