"""Turn an open base model into a domain expert that reasons before it answers."""

__version__ = "0.1.0"
