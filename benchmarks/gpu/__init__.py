"""What one GPU does in a few minutes: answering, training and memory of random models, measured.

    python -m benchmarks.gpu [--minutes 8] [--part NAME ...] [--out FOLDER]
    python -m benchmarks.gpu --part lessons --minutes 8

`plan` says what is measured, in order of worth, and who gets how much time. `__main__` starts the processes
(`processes`) and writes what they find (`report`) after every single figure. In a process, `worker` reads
what to measure and calls `answering`, `training` (timed by `steps`), `memory` or `lessons`. `shapes` makes
models in memory, `replicas` makes folders for the lessons. `python -m tools.gpu_machine` says what a
machine without a package index needs.
"""
