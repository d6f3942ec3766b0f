"""What a test of loops in C needs of the machine; where it is there, loops that do not work are a failure."""

from __future__ import annotations

import shutil

import pytest

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler, cc")
