"""Training of OneRanker: batches, losses of one step, the resumable loop."""
