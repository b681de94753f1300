"""Where images and volumes are kept: one module per kind of store."""
