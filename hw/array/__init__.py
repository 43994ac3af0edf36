"""From jobs to sums: the compactor, the stores of operands, the systolic array, and what drains from it."""
