"""Compiles extensions of gptqmodel for CUDA, in turn: python -m benchmarks.gpu.compiling FD NAME ..."""

import json
import os
import sys
import time

from helpers.weights._private import import_gptqmodel


def main() -> None:
    """Writes a line of JSON to the file descriptor for each extension: whether it is there, and seconds."""
    with os.fdopen(int(sys.argv[1]), "w", buffering=1, encoding="utf-8") as results:
        os.nice(10)  # the processes that measure come first
        import_gptqmodel()
        from gptqmodel import extension

        for name in sys.argv[2:]:
            start, error = time.monotonic(), ""
            try:
                if not extension.load(name=name)[name]:
                    error = extension.error(name) or "it could not be compiled"
            except Exception as problem:
                error = f"{type(problem).__name__}: {problem}"
            seconds = round(time.monotonic() - start, 1)
            line = {"extension": name, "seconds": seconds, "error": " ".join(error.split())[:300]}
            results.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
