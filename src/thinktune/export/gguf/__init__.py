"""GGUF files as llama.cpp reads them: written, quantized by its programs, and asked in it."""
