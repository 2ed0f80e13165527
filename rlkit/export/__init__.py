"""Agents and companion models as ONNX files, which run without rlkit and without torch."""
