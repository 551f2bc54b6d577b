"""Run a model in the engine that will run it: predictions and text of transformers, or of llama.cpp."""
