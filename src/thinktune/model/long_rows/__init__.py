"""Rows so long that a layer of them is too large: inputs on the host, MLPs in tiles, tokens shared by ranks."""
