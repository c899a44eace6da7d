"""Turns a OneRanker checkpoint into a bundle: one ONNX graph per stage, the item index, and the proof of parity."""
