"""What importing helpers sets for torch."""

import os
import subprocess
import sys


def test_openmp_threads_spin_for_a_short_time_and_then_sleep():
    settings = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    environment = {key: value for key, value in os.environ.items() if key not in settings}
    code = f"import helpers, os; print(*(os.environ[name] for name in {settings}))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["PASSIVE", "3000"]
