"""The whole way in a browser."""
