"""Interrupts at a chosen line of the package's own code."""

from __future__ import annotations

import linecache
import sys


class Interrupter:
    """Raises KeyboardInterrupt before the n-th line of chosen code of the package that runs.

    Lines that open or leave a `with` are left out: real interrupts are not delivered between a lock and its block.
    So is `try:`, which does nothing and, as the first line of a `with`, still lies before its block.

    Args:
        at: n, from 1.
        parts: names that the file of the code must have one of.
    """

    def __init__(self, at, parts):
        self.left = at
        self._parts = parts

    def __call__(self, frame, kind, _argument):
        name = frame.f_code.co_filename
        if not any(part in name for part in self._parts):
            return None
        if kind == "line" and not self._guards(frame):
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt
        return self

    @staticmethod
    def _guards(frame):
        text = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
        return text.startswith(("with ", "try:", "finally:", "except "))

    def run(self, action):
        """Return whether the action was interrupted."""
        before = sys.gettrace()
        sys.settrace(self)
        try:
            action()
        except KeyboardInterrupt:
            return True
        finally:
            sys.settrace(before)
        return False
