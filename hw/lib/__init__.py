"""What is not about LSTMs: streams, slices, queues, counters, memories and arithmetic."""
