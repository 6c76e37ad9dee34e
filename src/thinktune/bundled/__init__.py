"""Files that travel with the package: the demo's rows and the templates."""
