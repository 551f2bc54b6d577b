"""Run a GGUF file in llama.cpp, in a process of its own."""
