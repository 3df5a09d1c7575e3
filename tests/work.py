"""Work counted instead of time: bytecode instructions, the same on every machine."""

import sys
from collections.abc import Callable


def instructions(call: Callable[[], object]) -> int:
    """Bytecode instructions of Python code that a call executes; work within C functions is not
    counted.
    """
    before, counted = sys.gettrace(), 0

    def trace(frame, event, _):
        nonlocal counted
        frame.f_trace_opcodes = True
        counted += event == "opcode"
        return trace

    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return counted
