"""What one GPU does in a few minutes: answering, training and memory of random models, measured.

    python -m benchmarks.gpu [--minutes 8] [--part NAME ...] [--out FOLDER]

`plan` says what is measured, in order of worth, and who gets how much time. `__main__` starts the processes
(`processes`) and writes what they find (`report`) after every single figure. In a process, `worker` reads
what to measure and calls `answering`, `training`, `memory` or `lessons`; `shapes` makes their models.
"""
