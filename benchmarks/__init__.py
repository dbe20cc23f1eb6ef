"""Measurements that one can run; results.md has what they found."""

import helpers as helpers  # before torch, which reads how its threads wait when it is imported
