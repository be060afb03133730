"""What `benchmarks/memory.py` measures: facts that are found again, chains of keys, and conversations without end."""
